//! Assigns rows of the decode batch to sequences. A recorded step contains the addresses of its rows, so a decoding sequence keeps its row;
//! new sequences and the highest rows fill gaps, so that the smallest recorded step suffices.

/// Rows of the recorded steps.
pub const BUCKETS: [usize; 9] = [1, 2, 4, 8, 16, 24, 32, 48, 64];
pub const MOST_ROWS: usize = BUCKETS[BUCKETS.len() - 1];

/// Who a row belongs to: the same over all passes of a sequence's turn.
pub type Ticket = u64;

/// A row whose content must be brought to another row before the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    pub from: usize,
    pub to: usize,
}

#[derive(Default)]
pub struct Slots {
    rows: Vec<Option<Ticket>>,
}

impl Slots {
    pub fn row_of(&self, ticket: Ticket) -> Option<usize> {
        self.rows.iter().position(|row| *row == Some(ticket))
    }

    /// Frees the rows of all but `stay`, and closes the gaps as far as a smaller step comes of it.
    pub fn keep(&mut self, stay: &[Ticket]) -> Vec<Move> {
        self.rows.iter_mut().for_each(|row| *row = row.filter(|ticket| stay.contains(ticket)));
        self.shrink();
        let count = self.rows.iter().flatten().count();
        let mut moves = Vec::new();
        while bucket(self.rows.len()) > bucket(count) {
            let (Some(gap), from) = (self.rows.iter().position(Option::is_none), self.rows.len() - 1) else { break };
            self.rows.swap(gap, from);
            moves.push(Move { from, to: gap });
            self.shrink();
        }
        moves
    }

    /// The lowest free row; `None` when all are taken.
    pub fn take(&mut self, ticket: Ticket) -> Option<usize> {
        let row = self.rows.iter().position(Option::is_none).unwrap_or(self.rows.len());
        if row == MOST_ROWS {
            return None;
        }
        self.rows.resize(self.rows.len().max(row + 1), None);
        self.rows[row] = Some(ticket);
        Some(row)
    }

    fn shrink(&mut self) {
        while self.rows.last() == Some(&None) {
            self.rows.pop();
        }
    }
}

/// The rows of the smallest step that has so many.
pub fn bucket(rows: usize) -> usize {
    BUCKETS.into_iter().find(|&bucket| bucket >= rows).unwrap_or(MOST_ROWS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_decodes_keeps_its_row_until_a_smaller_step_does() {
        let mut slots = Slots::default();
        for ticket in 0..9 {
            assert_eq!(slots.take(ticket), Some(ticket as usize));
        }
        assert!(slots.keep(&[0, 1, 2, 3, 5, 6, 7, 8, 4]).is_empty());
        // Eight are left: the ninth row moves into the gap.
        assert_eq!(slots.keep(&[0, 1, 2, 3, 5, 6, 7, 8]), [Move { from: 8, to: 4 }]);
        assert_eq!((slots.row_of(8), slots.row_of(4)), (Some(4), None));
        // Seven still need a step of eight: no row moves, and a new sequence fills the gap.
        assert!(slots.keep(&[0, 1, 2, 5, 6, 7, 8]).is_empty());
        assert_eq!(slots.take(20), Some(3));
        assert_eq!(slots.keep(&[7]), [Move { from: 7, to: 0 }]);
        assert_eq!(slots.row_of(7), Some(0));
        assert!(slots.keep(&[]).is_empty());
    }

    #[test]
    fn there_are_only_so_many_rows() {
        let mut slots = Slots::default();
        let taken: Vec<_> = (0..70).filter_map(|ticket| slots.take(ticket)).collect();
        assert_eq!(taken, (0..MOST_ROWS).collect::<Vec<_>>());
        assert_eq!((bucket(1), bucket(3), bucket(25), bucket(64)), (1, 4, 32, 64));
    }
}

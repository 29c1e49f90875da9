//! N-gram speculative decoding: drafts the tokens that followed the same two or three tokens earlier in any conversation. Accepted draft
//! tokens save passes; rejected ones are rolled back. Results do not depend on drafts, so the table is small and lossy.

/// Contexts are kept under a hash; newer ones displace older ones.
const ENTRIES: usize = 1 << 16;
/// Tokens of a context, the longest first.
const LENGTHS: [usize; 2] = [3, 2];
/// Most draft tokens per sequence and pass.
const MOST: usize = 4;
/// Weight of the newest token in the moving averages.
const NEWS: f64 = 1.0 / 256.0;

/// What a sequence's attention takes for each further row: its keys are read for all of them, where they come from memory.
const ATTENTION: f64 = 0.5;

/// What follows what.
pub struct Drafter {
    /// In each place the check of a context and what followed it.
    entries: Vec<(u32, u32)>,
    /// Moving average: share of tokens with a draft.
    drafted: f64,
    /// Moving average: share of accepted draft tokens.
    right: f64,
}

impl Default for Drafter {
    fn default() -> Self {
        Self { entries: vec![(0, 0); ENTRIES], drafted: 0.0, right: 0.0 }
    }
}

impl Drafter {
    /// Up to `most` tokens that may follow.
    pub fn draft(&self, tokens: &[u32], most: usize) -> Vec<u32> {
        let mut context = tokens[tokens.len().saturating_sub(LENGTHS[0])..].to_vec();
        let known = context.len();
        while context.len() < known + most {
            match self.draft_token(&context) {
                Some(next) => context.push(next),
                None => break,
            }
        }
        context.split_off(known)
    }

    /// Learns the tokens from `from` on, one at a time, and updates the acceptance rates.
    pub fn learn(&mut self, tokens: &[u32], from: usize) {
        for end in from..tokens.len() {
            let (before, next) = (&tokens[..end], tokens[end]);
            let draft_token = self.draft_token(before);
            self.drafted += NEWS * (f64::from(u8::from(draft_token.is_some())) - self.drafted);
            if let Some(draft_token) = draft_token {
                self.right += NEWS * (f64::from(u8::from(draft_token == next)) - self.right);
            }
            for length in LENGTHS.into_iter().filter(|length| *length <= end) {
                let (place, check) = place(&before[end - length..]);
                self.entries[place] = (check, next);
            }
        }
    }

    /// The best number of draft tokens for each of `sequences` decoding sequences. A pass costs `cost(rows)` in the linear layers,
    /// and `attention`, in the same unit, in attention without drafts.
    pub fn worthwhile(&self, sequences: usize, attention: f64, cost: impl Fn(usize) -> f64) -> usize {
        let tokens_per_cost = |draft_tokens: usize| {
            let right: f64 = (1..=draft_tokens as i32).map(|n| self.right.powi(n)).sum();
            let rows = sequences as f64 * (1.0 + self.drafted * draft_tokens as f64);
            let attention = attention * (1.0 + ATTENTION * self.drafted * draft_tokens as f64);
            (1.0 + self.drafted * right) / (attention + cost(rows.ceil() as usize))
        };
        // Nothing is risked for next to nothing.
        let least = 1.1 * tokens_per_cost(0);
        let best = (1..=MOST).max_by(|a, b| tokens_per_cost(*a).total_cmp(&tokens_per_cost(*b)));
        best.filter(|best| tokens_per_cost(*best) > least).unwrap_or(0)
    }

    fn draft_token(&self, before: &[u32]) -> Option<u32> {
        LENGTHS.into_iter().filter(|length| *length <= before.len()).find_map(|length| {
            let (place, check) = place(&before[before.len() - length..]);
            let (kept, next) = self.entries[place];
            (kept == check).then_some(next)
        })
    }
}

/// The table index of a context and its non-zero tag (Fowler, Noll and Vo's hash, then a mix of its bits).
fn place(context: &[u32]) -> (usize, u32) {
    let hash = context.iter().fold(0xcbf2_9ce4_8422_2325_u64 ^ context.len() as u64, |hash, &token| {
        (hash ^ u64::from(token)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((hash >> 48) as usize % ENTRIES, hash as u32 | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_before_is_guessed_again() {
        let mut drafter = Drafter::default();
        let said = [1, 2, 3, 4, 5, 6, 7];
        drafter.learn(&said, 0);
        assert_eq!(drafter.draft(&[9, 2, 3], 3), [4, 5, 6]);
        assert_eq!(drafter.draft(&[5, 6], 4), [7]);
        assert_eq!(drafter.draft(&[3], 4), [0; 0]);
        assert_eq!(drafter.draft(&[8, 9, 8], 4), [0; 0]);
        // The longer context counts, and the newer of two.
        drafter.learn(&[1, 2, 3, 8], 3);
        assert_eq!(drafter.draft(&[1, 2, 3], 1), [8]);
    }

    #[test]
    fn guesses_are_fed_where_they_pay() {
        let mut drafter = Drafter::default();
        let cost = |rows: usize| 0.85 + rows as f64 / 16.0;
        assert_eq!(drafter.worthwhile(1, 0.0, cost), 0, "nothing is known yet");
        let said: Vec<u32> = (0..200).map(|i| i % 7).collect();
        drafter.learn(&said, 0);
        drafter.learn(&said, 0);
        drafter.learn(&said, 0);
        assert!(drafter.worthwhile(1, 0.0, cost) > 1);
        assert_eq!(drafter.worthwhile(16, 0.0, |rows| rows as f64), 0, "where rows cost in proportion, nothing is won");
        // Now nothing comes true any more.
        for n in 0..2000 {
            drafter.learn(&[0, 1, 2, 100 + n], 3);
        }
        assert_eq!(drafter.worthwhile(1, 0.0, cost), 0);
    }
}

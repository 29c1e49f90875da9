//! Contingency tables of counts in rows and columns (groups x categories), and Pearson's chi-square test of their independence.
//!
//! With e_ij = row_i column_j / n: X² = sum (o_ij - e_ij)² / e_ij on (r - 1)(c - 1) degrees of freedom, without Yates'
//! correction (Pearson 1900); p = Q(df / 2, X² / 2), the upper regularised incomplete gamma function. Its p rests on the
//! expected counts being large, 5 and more as a rule (Cochran 1954). Cramér's V = √(X² / (n min(r - 1, c - 1))) (Cramér 1946).

use statrs::function::gamma::gamma_ur;

use tiltmeter_model::problem::Problem;

/// A total beyond this would not be exact as a floating-point number.
const MOST: u64 = 1 << 53;

/// A contingency table without its empty rows and columns, which would only cost degrees of freedom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    pub(super) cells: Vec<Vec<u64>>,
    pub(super) rows: Vec<u64>,
    pub(super) columns: Vec<u64>,
    pub(super) total: u64,
}

/// Result of Pearson's test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChiSquare {
    /// The statistic X².
    pub statistic: f64,
    /// (r - 1)(c - 1), of the rows and columns that are not empty.
    pub df: usize,
    /// P value: upper tail of the chi-square distribution.
    pub p: f64,
    /// Cramér's V, the strength of the association, 0 to 1.
    pub cramers_v: f64,
    /// Smallest expected count; below 5 the p value is unreliable.
    pub smallest_expected: f64,
}

impl Counts {
    /// A table of rows of equal length. Errors if they are not, or if the total is beyond 2^53.
    pub fn new(rows: &[Vec<u64>]) -> Result<Self, Problem> {
        let width = rows.first().map_or(0, Vec::len);
        if let Some(at) = rows.iter().position(|row| row.len() != width) {
            return Err(Problem::new(format!("row {at} (from 0) has {} counts, row 0 has {width}", rows[at].len()))
                .hint("give every row one count per column"));
        }
        let total = rows.iter().flatten().try_fold(0_u64, |sum, &count| sum.checked_add(count));
        let Some(total) = total.filter(|&total| total <= MOST) else {
            return Err(Problem::new("the counts are too large to be added up exactly").hint("check what was counted"));
        };
        let used: Vec<usize> = (0..width).filter(|&column| rows.iter().any(|row| row[column] > 0)).collect();
        let cells: Vec<Vec<u64>> = rows
            .iter()
            .filter(|row| row.iter().any(|&count| count > 0))
            .map(|row| used.iter().map(|&column| row[column]).collect())
            .collect();
        let columns = (0..used.len()).map(|column| cells.iter().map(|row| row[column]).sum()).collect();
        Ok(Self { rows: cells.iter().map(|row| row.iter().sum()).collect(), columns, cells, total })
    }

    /// Whether independence can be tested: at least two rows and two columns are not empty.
    pub fn is_testable(&self) -> bool {
        self.rows.len() > 1 && self.columns.len() > 1
    }
}

/// Pearson's test of independence; `None` unless two rows and two columns are not empty.
pub fn chi_square(counts: &Counts) -> Option<ChiSquare> {
    if !counts.is_testable() {
        return None;
    }
    let total = counts.total as f64;
    let (mut statistic, mut smallest) = (0.0, f64::INFINITY);
    for (row, &row_sum) in counts.cells.iter().zip(&counts.rows) {
        for (&count, &column_sum) in row.iter().zip(&counts.columns) {
            let expected = row_sum as f64 * column_sum as f64 / total;
            statistic += (count as f64 - expected).powi(2) / expected;
            smallest = f64::min(smallest, expected);
        }
    }
    let (r, c) = (counts.rows.len() - 1, counts.columns.len() - 1);
    let df = r * c;
    Some(ChiSquare {
        statistic,
        df,
        p: if statistic > 0.0 { gamma_ur(df as f64 / 2.0, statistic / 2.0) } else { 1.0 },
        cramers_v: (statistic / (total * r.min(c) as f64)).sqrt().min(1.0),
        smallest_expected: smallest,
    })
}

//! What several processes that carry out one plan share: claims on runs, and leases on the budget.

mod claims;
mod leases;

pub use claims::Claims;
pub use leases::BudgetLeases;

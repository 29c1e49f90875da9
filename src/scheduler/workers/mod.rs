//! Coordination of workers, which are processes that execute one plan in one run folder: claims on runs, leases on the budget.

mod claims;
mod leases;

pub use claims::Claims;
pub use leases::BudgetLeases;

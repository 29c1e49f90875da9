//! [`Exit`]: exit codes. [`Failure`]: errors that end a command.

use tiltmeter_model::Problem;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Success.
    Done,
    /// An error inside tiltmeter or the machine.
    Internal,
    /// Invalid arguments, experiment or plan; nothing ran.
    BadPlan,
    /// A budget limit stopped the schedule.
    Budget,
    /// Some runs failed; the others are done.
    SomeFailed,
    /// A quota or rate limit of a provider stopped the schedule.
    Quota,
    /// A signal stopped the schedule.
    Interrupted,
}

impl Exit {
    /// Exit code of the process.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Internal => 1,
            Exit::BadPlan => 2,
            Exit::Budget => 3,
            Exit::SomeFailed => 4,
            Exit::Quota => 5,
            Exit::Interrupted => 130,
        }
    }
}

/// A failed command. `?` converts a `Problem` or a `Vec<Problem>` into [`Exit::BadPlan`].
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// The errors to print.
    pub problems: Vec<Problem>,
}

impl Failure {
    /// A failure after the command started to run.
    pub fn internal(problem: Problem) -> Self {
        Self { exit: Exit::Internal, problems: vec![problem] }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        vec![problem].into()
    }
}

impl From<Vec<Problem>> for Failure {
    fn from(problems: Vec<Problem>) -> Self {
        Self { exit: Exit::BadPlan, problems }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_match_the_help() {
        use Exit::*;
        let codes = [Done, Internal, BadPlan, Budget, SomeFailed, Quota, Interrupted].map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 130]);
    }
}

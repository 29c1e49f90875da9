//! `StopSignal`: the request to end a schedule early, in three levels, raised by Ctrl+C, SIGTERM and SIGUSR2.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

use tiltmeter_model::problem::Problem;

/// How urgently the schedule ends. Never decreases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopLevel {
    /// Continue.
    #[default]
    None,
    /// Start no new runs; finish those in flight.
    Drain,
    /// Stop runs at their next step.
    Stop,
    /// Drop runs at once. Journaled steps are kept.
    Abort,
}

/// A stop signal. Clones share their level.
#[derive(Clone, Debug)]
pub struct StopSignal {
    level: Arc<watch::Sender<StopLevel>>,
}

impl Default for StopSignal {
    fn default() -> Self {
        Self::new()
    }
}

impl StopSignal {
    /// A signal that is raised by `raise` only.
    pub fn new() -> Self {
        Self { level: Arc::new(watch::Sender::new(StopLevel::None)) }
    }

    /// A signal raised by one level per Ctrl+C, to `Stop` and then `Abort` by SIGTERM, and to `Drain` by SIGUSR2, which a batch system
    /// sends shortly before a time limit. Needs a tokio runtime; from then on Ctrl+C does not end the program by itself.
    pub fn listen() -> Result<Self, Problem> {
        let signal = Self::new();
        let failed = |error: std::io::Error| Problem::new(format!("cannot listen to signals: {error}"));
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal as listen};
            let mut interrupt = listen(SignalKind::interrupt()).map_err(failed)?;
            let mut terminate = listen(SignalKind::terminate()).map_err(failed)?;
            let mut nearly_up = listen(SignalKind::user_defined2()).map_err(failed)?;
            let raised = signal.clone();
            tokio::spawn(async move {
                loop {
                    tokio::select! {
                        Some(()) = interrupt.recv() => raised.press(),
                        Some(()) = terminate.recv() => raised.terminate(),
                        Some(()) = nearly_up.recv() => raised.raise(StopLevel::Drain),
                        else => break,
                    }
                }
            });
        }
        #[cfg(windows)]
        {
            let mut interrupt = tokio::signal::windows::ctrl_c().map_err(failed)?;
            let raised = signal.clone();
            tokio::spawn(async move {
                while interrupt.recv().await.is_some() {
                    raised.press();
                }
            });
        }
        Ok(signal)
    }

    /// The current level.
    pub fn level(&self) -> StopLevel {
        *self.level.borrow()
    }

    /// Raises the level; a lower level has no effect.
    pub fn raise(&self, to: StopLevel) {
        self.level.send_if_modified(|level| {
            let higher = to > *level;
            *level = to.max(*level);
            higher
        });
    }

    /// Handles one Ctrl+C.
    pub fn press(&self) {
        self.raise(match self.level() {
            StopLevel::None => StopLevel::Drain,
            StopLevel::Drain => StopLevel::Stop,
            StopLevel::Stop | StopLevel::Abort => StopLevel::Abort,
        });
    }

    /// Handles one SIGTERM.
    pub fn terminate(&self) {
        self.raise(if self.level() < StopLevel::Stop { StopLevel::Stop } else { StopLevel::Abort });
    }

    /// Waits until the level is at least `level`.
    pub async fn reached(&self, level: StopLevel) {
        let mut changes = self.level.subscribe();
        // The sender lives in `self`, so `wait_for` cannot fail.
        let _ = changes.wait_for(|now| *now >= level).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_c_raises_by_one_level_and_sigterm_by_two() {
        let signal = StopSignal::new();
        let levels: Vec<_> = (0..4).map(|_| (signal.press(), signal.level()).1).collect();
        assert_eq!(levels, [StopLevel::Drain, StopLevel::Stop, StopLevel::Abort, StopLevel::Abort]);
        signal.raise(StopLevel::None);
        assert_eq!(signal.level(), StopLevel::Abort);
        let signal = StopSignal::new();
        let levels: Vec<_> = (0..2).map(|_| (signal.terminate(), signal.level()).1).collect();
        assert_eq!(levels, [StopLevel::Stop, StopLevel::Abort]);
    }
}

//! Owns `StopSignal`: how a person or a batch system asks the schedule to come to an end, in three levels.
//! Must not know: runs, the terminal.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

use tiltmeter_model::problem::Problem;

/// How urgently the schedule is to end. It only ever rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopLevel {
    /// Go on.
    #[default]
    None,
    /// No new run starts; running runs finish.
    Drain,
    /// Running runs end at their next step.
    Stop,
    /// Running runs are dropped where they are. What is in the journal is kept.
    Abort,
}

/// A shared level; clones are the same signal.
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
    /// A signal that only this program raises.
    pub fn new() -> Self {
        Self { level: Arc::new(watch::Sender::new(StopLevel::None)) }
    }

    /// A signal that Ctrl+C raises by one level each time, SIGTERM to `Stop` (as two Ctrl+C) and from there to `Abort`,
    /// and SIGUSR2 to `Drain`: what a batch system sends when the time is nearly up.
    /// Needs a tokio runtime; from then on Ctrl+C no longer ends the program by itself.
    pub fn listen() -> Result<Self, Problem> {
        let signal = Self::new();
        let unheard = |error: std::io::Error| Problem::new(format!("cannot listen to signals: {error}"));
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal as listen};
            let mut interrupt = listen(SignalKind::interrupt()).map_err(unheard)?;
            let mut terminate = listen(SignalKind::terminate()).map_err(unheard)?;
            let mut nearly_up = listen(SignalKind::user_defined2()).map_err(unheard)?;
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
            let mut interrupt = tokio::signal::windows::ctrl_c().map_err(unheard)?;
            let raised = signal.clone();
            tokio::spawn(async move {
                while interrupt.recv().await.is_some() {
                    raised.press();
                }
            });
        }
        Ok(signal)
    }

    /// The level now.
    pub fn level(&self) -> StopLevel {
        *self.level.borrow()
    }

    /// Raises the level; a lower one changes nothing.
    pub fn raise(&self, to: StopLevel) {
        self.level.send_if_modified(|level| {
            let higher = to > *level;
            *level = to.max(*level);
            higher
        });
    }

    /// What one Ctrl+C does.
    pub fn press(&self) {
        self.raise(match self.level() {
            StopLevel::None => StopLevel::Drain,
            StopLevel::Drain => StopLevel::Stop,
            StopLevel::Stop | StopLevel::Abort => StopLevel::Abort,
        });
    }

    /// What one SIGTERM does.
    pub fn terminate(&self) {
        self.raise(if self.level() < StopLevel::Stop { StopLevel::Stop } else { StopLevel::Abort });
    }

    /// Waits until the level is at least this.
    pub async fn reached(&self, level: StopLevel) {
        let mut changes = self.level.subscribe();
        // The sender lives in `self`, so the wait can only end by the level.
        let _ = changes.wait_for(|now| *now >= level).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ctrl_c_is_one_level_and_sigterm_is_two() {
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

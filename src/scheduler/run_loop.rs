//! Owns which run is next, how many are under way at once, and what becomes of the schedule at their ends.
//! Must not know: models, engine, provider, kinds.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use super::{
    context::{Run, RunContext, Shared},
    progress::EventKind,
    recover::RecoveredRun,
    run_tasks::RunTasks,
    schedule::{Order, Schedule},
    stop::StopLevel,
    summary::{RunEnd, RunRecord},
};
use tiltmeter_model::problem::Problem;

/// How long dropped runs get to let go of what they hold.
const ABORT_PATIENCE: Duration = Duration::from_secs(2);

impl Schedule {
    /// Indices in the order of their start. Sorting is stable, so cells keep the order they were given in.
    pub(super) fn sequence(&self, runs: &[Arc<dyn Run>]) -> Vec<usize> {
        let mut cells: HashMap<(&str, &str), usize> = HashMap::new();
        let places: Vec<(usize, usize)> = runs
            .iter()
            .map(|run| {
                let key = run.key();
                let next = cells.len();
                let cell = *cells.entry((&key.experiment, &key.cell)).or_insert(next);
                match self.order {
                    Order::Interleaved => (key.sample, cell),
                    Order::Sequential => (cell, key.sample),
                }
            })
            .collect();
        let mut sequence: Vec<usize> = (0..runs.len()).collect();
        sequence.sort_by_key(|index| places[*index]);
        sequence
    }

    /// Whether nobody else carries this run out.
    fn takes(&self, run: &dyn Run) -> Result<bool, Problem> {
        self.claims.as_ref().map_or(Ok(true), |claims| claims.take(&run.key().id()))
    }

    /// Starts runs and collects their ends until there is nothing left to start or to wait for. An error: it cannot be found out
    /// which runs are this process's.
    pub(super) async fn execute_all(
        &self,
        runs: &[Arc<dyn Run>],
        queue: &mut VecDeque<usize>,
        records: &mut HashMap<String, RecoveredRun>,
        results: &mut [RunRecord],
        of_others: &mut HashSet<usize>,
        shared: &Arc<Shared>,
    ) -> Result<(), Problem> {
        let mut unshared = Ok(());
        let mut running = RunTasks::default();
        let mut level = StopLevel::None;
        let mut next_start = Instant::now();
        loop {
            let mut delayed = false;
            while level == StopLevel::None && running.tasks.len() < self.parallel && self.admits() {
                delayed = next_start > Instant::now();
                if delayed {
                    break;
                }
                let Some(index) = queue.pop_front() else { break };
                match self.takes(runs[index].as_ref()) {
                    Ok(true) => {}
                    Ok(false) => {
                        of_others.insert(index);
                        continue;
                    }
                    Err(problem) => {
                        unshared = Err(problem);
                        queue.clear();
                        break;
                    }
                }
                next_start = Instant::now() + self.inter_run_delay;
                let run = Arc::clone(&runs[index]);
                let record = records.remove(&run.key().id()).unwrap_or_default();
                running.start(
                    index,
                    run,
                    RunContext::new(runs[index].key().clone(), Arc::clone(shared), record),
                    self.run_time_limit,
                );
                self.progress.running.store(running.tasks.len(), Relaxed);
            }
            if running.tasks.is_empty() && !delayed {
                return unshared;
            }
            let watched = match level {
                StopLevel::None => StopLevel::Drain,
                StopLevel::Drain => StopLevel::Stop,
                StopLevel::Stop | StopLevel::Abort => StopLevel::Abort,
            };
            let ended = tokio::select! {
                biased;
                () = self.stop.reached(watched) => {
                    level = self.stop.level();
                    None
                }
                Some(ended) = running.tasks.join_next_with_id() => Some(ended),
                () = sleep_until(next_start), if delayed => None,
            };
            if let Some(ended) = ended {
                self.record(running.finished(ended).await, results);
                self.progress.running.store(running.tasks.len(), Relaxed);
            }
            // Without a journal nothing that is still under way could be kept.
            if level == StopLevel::Abort || shared.journal.failure().is_some() {
                break;
            }
        }
        running.tasks.abort_all();
        let drop_all = async {
            while let Some(ended) = running.tasks.join_next_with_id().await {
                self.record(running.finished(ended).await, results);
            }
        };
        // A run inside a long computation cannot be dropped; its later lines find the journal closed.
        let _ = tokio::time::timeout(ABORT_PATIENCE, drop_all).await;
        self.progress.running.store(0, Relaxed);
        unshared
    }

    fn record(&self, ended: Option<(usize, RunRecord)>, results: &mut [RunRecord]) {
        let Some((index, record)) = ended else { return };
        let id = record.key.id();
        match &record.end {
            RunEnd::Done => {
                self.progress.done.fetch_add(1, Relaxed);
                self.progress.ended_live.fetch_add(1, Relaxed);
                self.progress.event(EventKind::Done, Some(&id), format!("{id} done"));
            }
            RunEnd::Failed(problem) => {
                self.progress.failed.fetch_add(1, Relaxed);
                self.progress.ended_live.fetch_add(1, Relaxed);
                self.progress.event(EventKind::Failed, Some(&id), format!("{id} failed: {problem}"));
            }
            RunEnd::Pending => {}
        }
        results[index] = record;
    }
}

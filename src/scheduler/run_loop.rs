//! The run loop: starts runs in order while limits allow it, collects their results, and reacts to the stop signal.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    mem,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use super::{
    context::{RunContext, Shared, StepCounters},
    journal::RecoveredRun,
    progress::EventKind,
    run::Run,
    run_tasks::RunTasks,
    schedule::{Order, Schedule},
    stop::StopLevel,
    summary::{RunEnd, RunRecord, Summary},
};
use tiltmeter_model::problem::Problem;
use tiltmeter_store::Outcome;

/// Time that aborted runs get to release what they hold.
const ABORT_PATIENCE: Duration = Duration::from_secs(2);

/// All runs of a schedule.
struct RunTable {
    runs: Vec<Arc<dyn Run>>,
    /// One record per run.
    results: Vec<RunRecord>,
    /// Indices of runs still to be started.
    queue: VecDeque<usize>,
    /// Journal entries of runs still to be started, by run id.
    recovered: HashMap<String, RecoveredRun>,
    /// Indices of runs that belong to other workers.
    of_others: HashSet<usize>,
}

impl Schedule {
    /// Executes the runs. An error means that nothing was started or that the journal cannot be written. A failed run is not an error
    /// and does not stop other runs.
    pub async fn run(mut self, runs: Vec<Arc<dyn Run>>) -> Result<Summary, Problem> {
        self.check(&runs)?;
        let (journal, session, recovered) = self.start_session(runs.len()).await?;
        self.progress.begin(runs.len());
        self.progress.watch(&self.lanes, &self.budget);
        let (mut table, checkpoints, unplanned_runs) = self.restore(runs, recovered)?;
        let shared = Arc::new(Shared {
            journal,
            progress: Arc::clone(&self.progress),
            stop: self.stop.clone(),
            steps: StepCounters::default(),
            lanes: self.lanes.clone(),
            budget: self.budget.clone(),
            halted: Mutex::default(),
            checkpoints: Mutex::new(checkpoints),
            hooks: self.hooks.take(),
        });
        let claimed = self.execute_all(&mut table, &shared).await;
        let summary = self.end_session(session, &shared, table.into_records(&shared), unplanned_runs).await?;
        claimed.map(|()| summary)
    }

    /// Takes finished runs from the journal and queues the others. Also returns the checkpoints of unfinished runs and the number of
    /// runs in the journal that are not in the plan.
    fn restore(
        &self,
        runs: Vec<Arc<dyn Run>>,
        recovered: HashMap<String, RecoveredRun>,
    ) -> Result<(RunTable, BTreeMap<String, Outcome>, usize), Problem> {
        let record = |run: &Arc<dyn Run>| RunRecord { key: run.key().clone(), outcome: None, end: RunEnd::Pending };
        let mut results: Vec<RunRecord> = runs.iter().map(record).collect();
        let (mut queue, mut of_others) = (VecDeque::new(), HashSet::new());
        let mut checkpoints = BTreeMap::new();
        let mut known = 0;
        for index in self.sequence(&runs) {
            let key = runs[index].key();
            let id = key.id();
            let record = recovered.get(&id);
            known += usize::from(record.is_some());
            if record.is_some_and(|record| record.done_by_others) {
                of_others.insert(index);
                continue;
            }
            let Some(outcome) = record.map(|record| record.outcome(&id)).transpose()?.flatten() else {
                checkpoints.extend(record.and_then(RecoveredRun::checkpoint).map(|outcome| (id, outcome)));
                queue.push_back(index);
                continue;
            };
            // The process may have been killed between the journal entry and the files of the run.
            if let Some(hooks) = &self.hooks {
                hooks.on_done(key, &outcome);
            }
            results[index] = RunRecord { key: key.clone(), outcome: Some(outcome), end: RunEnd::Done };
            self.progress.done.fetch_add(1, Relaxed);
            for (unit, n) in record.iter().flat_map(|record| &record.counts) {
                self.progress.count(unit, *n, false);
            }
        }
        let unplanned = recovered.len() - known;
        Ok((RunTable { runs, results, queue, recovered, of_others }, checkpoints, unplanned))
    }

    /// Indices in the order in which runs start. The sort is stable, so cells keep their given order.
    fn sequence(&self, runs: &[Arc<dyn Run>]) -> Vec<usize> {
        let mut cells: HashMap<(&str, &str), usize> = HashMap::new();
        let positions: Vec<(usize, usize)> = runs
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
        sequence.sort_by_key(|index| positions[*index]);
        sequence
    }

    /// Starts runs and collects their results until the queue is empty and no run is in flight. An error means that the claims cannot
    /// be read or written.
    async fn execute_all(&self, table: &mut RunTable, shared: &Arc<Shared>) -> Result<(), Problem> {
        let mut claimed = Ok(());
        let mut running = RunTasks::default();
        let mut level = StopLevel::None;
        let mut next_start = Instant::now();
        loop {
            let mut delayed = false;
            while level == StopLevel::None && running.tasks.len() < self.parallel && self.can_start_runs() {
                delayed = next_start > Instant::now();
                if delayed {
                    break;
                }
                let Some(index) = table.queue.pop_front() else { break };
                let key = table.runs[index].key();
                match self.claims.as_ref().map_or(Ok(true), |claims| claims.take(&key.id())) {
                    Ok(true) => {}
                    Ok(false) => {
                        table.of_others.insert(index);
                        continue;
                    }
                    Err(problem) => {
                        claimed = Err(problem);
                        table.queue.clear();
                        break;
                    }
                }
                next_start = Instant::now() + self.inter_run_delay;
                let record = table.recovered.remove(&key.id()).unwrap_or_default();
                let context = RunContext::new(key.clone(), Arc::clone(shared), record);
                running.start(index, Arc::clone(&table.runs[index]), context, self.run_time_limit);
                self.progress.running.store(running.tasks.len(), Relaxed);
            }
            if running.tasks.is_empty() && !delayed {
                return claimed;
            }
            let next_level = match level {
                StopLevel::None => StopLevel::Drain,
                StopLevel::Drain => StopLevel::Stop,
                StopLevel::Stop | StopLevel::Abort => StopLevel::Abort,
            };
            let ended = tokio::select! {
                biased;
                () = self.stop.reached(next_level) => {
                    level = self.stop.level();
                    None
                }
                Some(ended) = running.tasks.join_next_with_id() => Some(ended),
                () = sleep_until(next_start), if delayed => None,
            };
            if let Some(ended) = ended {
                self.record(running.finished(ended).await, table);
                self.progress.running.store(running.tasks.len(), Relaxed);
            }
            // Without a journal, no result of the runs in flight could be saved.
            if level == StopLevel::Abort || shared.journal.failure().is_some() {
                break;
            }
        }
        running.tasks.abort_all();
        let drop_all = async {
            while let Some(ended) = running.tasks.join_next_with_id().await {
                self.record(running.finished(ended).await, table);
            }
        };
        // A run in a long computation cannot be dropped; its later entries fail because the journal is closed.
        let _ = tokio::time::timeout(ABORT_PATIENCE, drop_all).await;
        self.progress.running.store(0, Relaxed);
        claimed
    }

    fn record(&self, ended: Option<(usize, RunRecord)>, table: &mut RunTable) {
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
        table.results[index] = record;
    }
}

impl RunTable {
    /// Records of this worker's runs; unfinished ones with their latest checkpoint.
    fn into_records(self, shared: &Shared) -> Vec<RunRecord> {
        let mut checkpoints = mem::take(&mut *shared.checkpoints.lock().unwrap_or_else(PoisonError::into_inner));
        let own = self.results.into_iter().enumerate().filter(|(index, _)| !self.of_others.contains(index));
        own.map(|(_, mut run)| {
            run.outcome = run.outcome.or_else(|| checkpoints.remove(&run.key.id()));
            run
        })
        .collect()
    }
}

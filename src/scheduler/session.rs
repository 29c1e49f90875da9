//! Start and end of a session: opens the journal, checks the plan, restores the budget; at the end journals how the session ended
//! and builds the `Summary`.

use std::{
    collections::HashMap,
    mem,
    sync::{PoisonError, atomic::Ordering::Relaxed},
};

use serde::Serialize;

use super::{
    budget::Balance,
    context::Shared,
    journal::{Entry, EntryKind, FORMAT, Journal, RecoveredRun, SessionStart, SessionStop, moment},
    schedule::Schedule,
    stop::StopLevel,
    summary::{Ledger, RunEnd, RunRecord, Summary},
};
use tiltmeter_model::problem::Problem;
use tiltmeter_store::{Drift, Session, SessionEnd};

/// A session after its start entry is durable.
pub struct OpenSession {
    /// Earlier sessions with their start (Unix time in ms).
    sessions: Vec<(u64, Session)>,
    started_at: u64,
    start: SessionStart,
    accepted_drift: Vec<Drift>,
    resumed: bool,
    uncertain_steps: usize,
}

impl Schedule {
    /// Opens the journal, restores the state of all runs and starts a session.
    pub(super) async fn start_session(
        &mut self,
        runs: usize,
    ) -> Result<(Journal, OpenSession, HashMap<String, RecoveredRun>), Problem> {
        let (journal, mut recovered, own_end) = Journal::open(&self.folder, self.disk.take())?;
        let resumed = recovered.plan.is_some();
        let drift = self.drift(&recovered)?;
        self.folder.remove_temporary_files()?;
        let mut accepted_drift = mem::take(&mut recovered.accepted_drift);
        accepted_drift.extend(drift.iter().cloned());
        // Each journal file contains its plan, so that it can be read without the others.
        let new_plan = !own_end.has_session || !drift.is_empty();
        let started_at = journal.now();
        let by_others = recovered.runs.values().map(|run| run.paid_by_others).fold(Balance::default(), Balance::plus);
        self.budget.restore(recovered.runs.iter().map(|(id, run)| (id.clone(), run.cost())), by_others)?;
        let limits = self.budget.spending();
        let start = SessionStart {
            format: FORMAT,
            plan_hash: self.plan.hash().to_owned(),
            plan: new_plan.then(|| self.plan.document().clone()),
            accepted_drift: drift,
            runs: self.planned.unwrap_or(runs),
            totals: self.progress.totals(),
            limit_micro_usd: limits.limit_micro_usd,
            run_limit_micro_usd: limits.run_limit_micro_usd,
            environment: mem::take(&mut self.environment),
        };
        commit(&journal, EntryKind::Session, started_at, &start).await?;
        if !self.folder.is_shared() || !self.folder.plan().is_file() {
            self.plan.write(&self.folder.plan())?;
        }
        self.hooks.as_ref().map_or(Ok(()), |hooks| hooks.on_start())?;
        let mut records = recovered.runs;
        self.start_reruns(&journal, &mut records).await?;
        let uncertain_steps = records.values().map(|record| record.uncertain_steps()).sum();
        let sessions = recovered.sessions;
        Ok((journal, OpenSession { sessions, started_at, start, accepted_drift, resumed, uncertain_steps }, records))
    }

    async fn start_reruns(
        &self,
        journal: &Journal,
        records: &mut HashMap<String, RecoveredRun>,
    ) -> Result<(), Problem> {
        for id in &self.rerun {
            let Some(record) = records.get_mut(id).filter(|record| record.done.is_some()) else { continue };
            let pass = record.pass() + 1;
            let entry = Entry { run: Some(id), pass, ..Entry::of_session(EntryKind::Rerun, journal.now(), &()) };
            journal.commit(Journal::encode(&entry)?).await?;
            record.of_pass(pass);
        }
        Ok(())
    }

    /// Ends the session and closes the journal. `runs` are those of this worker.
    pub(super) async fn end_session(
        &self,
        session: OpenSession,
        shared: &Shared,
        runs: Vec<RunRecord>,
        unplanned_runs: usize,
    ) -> Result<Summary, Problem> {
        let count = |end: fn(&RunEnd) -> bool| runs.iter().filter(|run| end(&run.end)).count();
        let pending = count(|end| *end == RunEnd::Pending);
        let completed = count(|end| *end == RunEnd::Done);
        let level = self.stop.level();
        let how = match level {
            _ if pending == 0 => SessionEnd::Finished,
            // A limit left runs pending.
            StopLevel::None => SessionEnd::Stopped,
            StopLevel::Drain => SessionEnd::Drained,
            StopLevel::Stop => SessionEnd::Stopped,
            StopLevel::Abort => SessionEnd::Aborted,
        };
        let ended_at = shared.journal.now();
        let stop = SessionStop { how, work: self.work.as_ref().map(|work| work()).unwrap_or_default() };
        let committed = commit(&shared.journal, EntryKind::End, ended_at, &stop).await;
        shared.journal.close();
        committed?;
        self.budget.release_unspent()?;

        let spending = self.budget.spending();
        let halted = mem::take(&mut *shared.halted.lock().unwrap_or_else(PoisonError::into_inner));
        let halt = halted.values().min_by_key(|halt| halt.reason).filter(|_| pending > 0).cloned();
        let halt = halt.map(|halt| halt.for_schedule(&spending, completed, runs.len()));
        let mut accounts = self.budget.accounts();
        for (id, halt) in halted {
            accounts.entry(id).or_default().halt = Some(halt);
        }
        let OpenSession { mut sessions, started_at, start, accepted_drift, resumed, uncertain_steps } = session;
        let (started, ended) = (moment(started_at), Some(moment(ended_at)));
        sessions.push((started_at, Session { started, ended, how, environment: start.environment, work: stop.work }));
        sessions.sort_by_key(|(at, _)| *at);
        Ok(Summary {
            ledger: Ledger {
                sessions: sessions.into_iter().map(|(_, session)| session).collect(),
                spending,
                runs: accounts,
            },
            completed,
            failed: count(|end| matches!(end, RunEnd::Failed(_))),
            pending,
            halt,
            interrupted: level > StopLevel::None && pending > 0,
            resumed,
            replayed_steps: shared.steps.replayed.load(Relaxed),
            executed_steps: shared.steps.executed.load(Relaxed),
            uncertain_steps,
            unplanned_runs,
            accepted_drifts: accepted_drift,
            work: self.progress.work(),
            runs,
        })
    }
}

async fn commit<T: Serialize>(journal: &Journal, kind: EntryKind, at: u64, value: &T) -> Result<(), Problem> {
    journal.commit(Journal::encode(&Entry::of_session(kind, at, value))?).await
}

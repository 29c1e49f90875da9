//! Whole conversations of recorded lengths, and the check that a conversation's bits do not depend on what runs beside it.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Instant};

use serde::{Deserialize, Serialize};

use super::workload::{Workload, tokens_of};
use crate::{backend::Backend, sequence::Finished};
use tiltmeter_model::probe::ProbePlan;
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ConversationId, EngineStats};

/// Lengths in tokens: user turns `[turn]`, a system message after each (0 for none), and replies `[sample][turn]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Condition {
    pub user: Vec<usize>,
    #[serde(default)]
    pub system: usize,
    pub reply: Vec<Vec<usize>>,
}

/// Conditions by name, and the tokens that a chat template adds per turn.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Rollouts {
    pub conditions: BTreeMap<String, Condition>,
    pub template_tokens: usize,
}

/// Differences between conversations run together, in reverse order, and alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Independence {
    pub together: usize,
    /// Conversations that also ran alone.
    pub compared: usize,
    pub tokens: usize,
    pub differing_tokens: usize,
    pub projections: usize,
    pub differing_projections: usize,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct RolloutsRow {
    pub conversations: usize,
    pub seconds: f64,
    pub generated_tokens: u64,
    pub forward_tokens: u64,
    /// Token passes repeated for a conversation that had computed them before.
    pub repeated: u64,
    pub steps: u64,
}

/// Runs conversations together, in the opposite order, and `compared` of them alone, and counts differing bits.
pub fn independence<B: Backend>(
    workload: &mut Workload<B>,
    together: usize,
    compared: usize,
    tokens: usize,
) -> Result<Independence, Problem> {
    let plan = workload.probe_plan(2, 2);
    let vocab = workload.config().vocab_size;
    let mut run = |numbers: &mut dyn Iterator<Item = usize>| {
        for n in numbers {
            let prompt = tokens_of(n, 0, 40 + (n * 37) % 300, vocab);
            workload.submit(n, prompt, tokens + n % 7, None, Some(plan.clone()));
        }
        workload.drain()
    };
    let forwards = run(&mut (0..together))?;
    let backwards = run(&mut (0..together).rev())?;
    let mut row = Independence { together, compared: compared.min(together), ..Independence::default() };
    compare(&forwards, &backwards, &mut row);
    for i in 0..row.compared {
        let alone = run(&mut std::iter::once(i * together / row.compared))?;
        compare(&alone, &forwards, &mut row);
    }
    Ok(row)
}

/// Counts the differences between two runs of the same conversations.
fn compare(some: &[(usize, Finished)], others: &[(usize, Finished)], row: &mut Independence) {
    fn projections(finished: &Finished) -> Vec<u32> {
        let probes = finished.readouts.iter().flat_map(|readout| &readout.projections);
        probes.flat_map(|probe| probe.per_token.iter().map(|value| value.to_bits())).collect()
    }
    fn differing(some: &[u32], others: &[u32]) -> usize {
        some.iter().zip(others).filter(|(a, b)| a != b).count() + some.len().abs_diff(others.len())
    }
    for (n, one) in some {
        let Some((_, other)) = others.iter().find(|(other, _)| other == n) else { continue };
        row.tokens += one.generated.len();
        row.differing_tokens += differing(&one.generated, &other.generated);
        let (one, other) = (projections(one), projections(other));
        row.projections += one.len();
        row.differing_projections += differing(&one, &other);
    }
}

/// A conversation of recorded lengths.
struct Conversation {
    /// Tokens of the prompt's addition and of the reply, by turn.
    turns: Vec<(usize, usize)>,
    tokens: Vec<u32>,
    turn: usize,
}

/// Runs whole conversations; each turn's prompt extends the conversation so far, as in an experiment.
pub fn rollouts<B: Backend>(workload: &mut Workload<B>, rollouts: &Rollouts) -> Result<RolloutsRow, Problem> {
    let plan = workload.probe_plan(1, 1);
    let mut conversations: Vec<Conversation> = Vec::new();
    for condition in rollouts.conditions.values() {
        for reply in &condition.reply {
            let turns = condition.user.iter().zip(reply);
            let turns = turns.map(|(user, &reply)| (user + condition.system + rollouts.template_tokens, reply));
            conversations.push(Conversation { turns: turns.collect(), tokens: Vec::new(), turn: 0 });
        }
    }
    // Longest first, so that the last to end starts early.
    conversations.sort_by_key(|one| Reverse(one.turns.iter().map(|(prompt, reply)| prompt + reply).sum::<usize>()));
    let before = workload.batcher.work();
    let began = Instant::now();
    for n in 0..conversations.len() {
        next_turn(workload, &mut conversations[n], n, &plan);
    }
    while workload.batcher.is_busy() {
        workload.batcher.step()?;
        for (n, finished) in workload.results()? {
            conversations[n].tokens.extend(finished.generated);
            if conversations[n].turn < conversations[n].turns.len() {
                next_turn(workload, &mut conversations[n], n, &plan);
            } else {
                workload.batcher.close(ConversationId(n as u64));
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let work = workload.batcher.work();
    let repeated = |work: EngineStats| work.forward_tokens - work.unique_tokens;
    Ok(RolloutsRow {
        conversations: conversations.len(),
        seconds,
        generated_tokens: work.generated_tokens - before.generated_tokens,
        forward_tokens: work.forward_tokens - before.forward_tokens,
        repeated: repeated(work) - repeated(before),
        steps: work.steps - before.steps,
    })
}

fn next_turn<B: Backend>(workload: &mut Workload<B>, one: &mut Conversation, n: usize, plan: &Arc<ProbePlan>) {
    let (prompt, reply) = one.turns[one.turn];
    one.tokens.extend(tokens_of(n, one.turn + 1, prompt, workload.config().vocab_size));
    one.turn += 1;
    workload.submit(n, one.tokens.clone(), reply, Some(ConversationId(n as u64)), Some(plan.clone()));
}

//! Owns measuring the GPU engine, with conversations made of tokens from nowhere: memory bandwidth, prefill, decoding steps beside the
//! bytes they must move, what capture adds, whole rollouts of recorded lengths, and whether a conversation comes out the same to the
//! bit alone and among others. It drives the batcher as conversations do.
//! Must not know: text, experiments.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Instant,
};

use serde::{Deserialize, Serialize};
use tiltmeter_kernels::gpu::Gpu;

use crate::{
    backend::cuda::weights::Shapes,
    backend::cuda::{CudaBackend, failure},
    backend::{Backend, PageCounts},
    batcher::{Batcher, Limits},
    capture::Recorder,
    checkpoint::config::ModelConfig,
    sequence::{Finished, SamplingParams, Sequence},
};
use tiltmeter_model::probe::{Probe, ProbePlan, Readout, Site, Span};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ConversationId, ModelError, Sampling, SeedKey};

/// What is measured.
#[derive(Clone, Debug, Default)]
pub struct GpuBenchRequest {
    /// Conversations decoded together, and tokens that each has.
    pub batches: Vec<usize>,
    pub contexts: Vec<usize>,
    /// Steps that are timed.
    pub steps: usize,
    /// Axes at each of so many sites.
    pub captures: Vec<(usize, usize)>,
    /// Tokens of the prompt that prefill is timed with.
    pub prompt: usize,
    /// Conversations that are compared with themselves alone; 0 is none.
    pub compared: usize,
    pub rollouts: Option<Rollouts>,
}

/// Lengths in tokens: of user turns, of a system message that follows each (0 is none), and of replies `[sample][turn]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Condition {
    pub user: Vec<usize>,
    #[serde(default)]
    pub system: usize,
    pub reply: Vec<Vec<usize>>,
}

/// Conditions by name, and what a chat template adds to a turn.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Rollouts {
    pub conditions: BTreeMap<String, Condition>,
    pub template_tokens: usize,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct GpuBench {
    pub device: String,
    pub dtype: String,
    pub weight_bytes: u64,
    /// Of a copy within the device, bytes read and written.
    pub memory_bytes_per_s: f64,
    pub prefill: Option<PrefillRow>,
    pub decode: Vec<DecodeRow>,
    pub capture: Vec<CaptureRow>,
    pub independence: Option<Independence>,
    pub rollouts: Option<RolloutsRow>,
    /// What does not fit this GPU.
    pub left_out: Vec<String>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct PrefillRow {
    pub tokens: usize,
    pub tokens_per_s: f64,
    /// Two per weight and token; attention is not counted.
    pub flops: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct DecodeRow {
    pub batch: usize,
    pub context: usize,
    pub step_ms: f64,
    pub tokens_per_s: f64,
    /// Weights, keys and values that a step must read, at the memory's speed.
    pub floor_ms: f64,
    pub share_of_floor: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct CaptureRow {
    pub axes: usize,
    pub sites: usize,
    pub batch: usize,
    pub context: usize,
    pub step_ms: f64,
    pub step_ms_without: f64,
    pub overhead: f64,
}

/// Conversations that ran together and alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Independence {
    pub together: usize,
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
    /// Passes of a token that its conversation had fed before.
    pub repeated: u64,
    pub steps: u64,
    /// Rows computed ahead of an answer for nobody.
    pub in_vain: u64,
}

/// Most tokens of one prompt in a pass, and of a pass.
const LIMITS: Limits = Limits { prefill_chunk: 512, step_tokens: 1024, guesses: false };

/// Steps before those that are timed, and behind them.
const WARM_UP: usize = 8;

/// Measures a model that is on a device already.
pub fn measure(card: CudaBackend, request: &GpuBenchRequest, say: &mut dyn FnMut(&str)) -> Result<GpuBench, Problem> {
    let gpu = card.gpu().clone();
    let facts = card.facts();
    let config = card.config().clone();
    let memory_bytes_per_s = bandwidth(&gpu)?;
    let linear: u64 = config.linear_weights();
    let weight_bytes = 2 * linear;
    say(&format!("{}: copies {:.2} TB/s", facts.device, memory_bytes_per_s / 1e12));
    let mut bench = Bench { batcher: Batcher::new(card, LIMITS, Arc::default()), config, next: 0 };
    let mut result =
        GpuBench { device: facts.device, dtype: facts.dtype, weight_bytes, memory_bytes_per_s, ..GpuBench::default() };
    if request.prompt > 0 {
        let row = bench.prefill(request.prompt)?;
        say(&format!("prefill of {}: {:.0} tokens/s, {:.0} TFLOP/s", row.tokens, row.tokens_per_s, row.flops / 1e12));
        result.prefill = Some(row);
    }
    for &context in &request.contexts {
        for &batch in &request.batches {
            if !bench.fits(batch, context + request.steps) {
                result.left_out.push(format!("{batch} conversations of {context} tokens do not fit"));
                continue;
            }
            let step_ms = bench.step_ms(batch, context, request.steps, None)?;
            let keys = context + request.steps / 2;
            let bytes = weight_bytes + batch as u64 * bench.config.kv_bytes_read(keys, 2);
            let floor_ms = 1e3 * bytes as f64 / memory_bytes_per_s;
            let share_of_floor = floor_ms / step_ms;
            let tokens_per_s = 1e3 * batch as f64 / step_ms;
            say(&format!(
                "decode x{batch} at {context}: {step_ms:.3} ms, {:.0} % of the floor",
                100.0 * share_of_floor
            ));
            result.decode.push(DecodeRow { batch, context, step_ms, tokens_per_s, floor_ms, share_of_floor });
        }
    }
    let context = request.contexts.iter().copied().min();
    let fitting = |batch: &usize| context.is_some_and(|context| bench.fits(*batch, context + request.steps));
    let batch = request.batches.iter().copied().filter(fitting).max();
    if let (Some(batch), Some(context)) = (batch, context) {
        for &(axes, sites) in &request.captures {
            let plan = Arc::new(plan(&bench.config, axes, sites));
            let step_ms_without = bench.step_ms(batch, context, request.steps, None)?;
            let step_ms = bench.step_ms(batch, context, request.steps, Some(plan))?;
            let overhead = step_ms / step_ms_without - 1.0;
            say(&format!("capture of {axes} axes at {sites} sites: {:+.2} %", 100.0 * overhead));
            result.capture.push(CaptureRow { axes, sites, batch, context, step_ms, step_ms_without, overhead });
        }
    }
    if request.compared > 0 {
        let together = request.batches.iter().copied().max().unwrap_or(1);
        let row = bench.independence(together, request.compared, request.steps.max(8))?;
        say(&format!("{} of {} tokens differ alone and among {}", row.differing_tokens, row.tokens, row.together));
        result.independence = Some(row);
    }
    if let Some(rollouts) = &request.rollouts {
        let row = bench.rollouts(rollouts)?;
        say(&format!("{} tokens of {} conversations: {:.1} s", row.generated_tokens, row.conversations, row.seconds));
        result.rollouts = Some(row);
    }
    Ok(result)
}

/// Bytes that a copy within the device reads and writes in a second: the best of three.
fn bandwidth(gpu: &Gpu) -> Result<f64, Problem> {
    let (free, _) = gpu.driver().memory().map_err(failure)?;
    let bytes = (free / 4).min(2 << 30) / 256 * 256;
    let best = || -> tiltmeter_kernels::gpu::Result<f64> {
        let [from, to] = [gpu.alloc(bytes)?, gpu.alloc(bytes)?];
        let mut best = f64::INFINITY;
        for _ in 0..4 {
            let begin = gpu.mark()?;
            from.all().copy_to(to.all())?;
            let end = gpu.mark()?;
            end.wait()?;
            best = best.min(f64::from(end.milliseconds_since(&begin)?).max(1e-6));
        }
        Ok(2.0 * bytes as f64 / best * 1e3)
    };
    best().map_err(failure)
}

struct Bench {
    batcher: Batcher<CudaBackend>,
    config: ModelConfig,
    /// Number of the next conversation.
    next: u64,
}

/// What came of one sequence.
type Answers = Arc<Mutex<Vec<(usize, Result<Finished, Problem>)>>>;

impl Bench {
    /// Seconds of one prompt, the better of two.
    fn prefill(&mut self, tokens: usize) -> Result<PrefillRow, Problem> {
        let mut best = f64::INFINITY;
        for _ in 0..2 {
            let answers = Answers::default();
            let prompt = self.prompt(0, tokens);
            self.submit(0, prompt, 1, None, None, &answers);
            let began = Instant::now();
            self.drain()?;
            best = best.min(began.elapsed().as_secs_f64());
            results(&answers)?;
        }
        let shapes = Shapes::of(&self.config);
        let weights = (self.config.linear_weights() - (shapes.head.n * shapes.head.k) as u64) as f64;
        Ok(PrefillRow { tokens, tokens_per_s: tokens as f64 / best, flops: 2.0 * weights * tokens as f64 / best })
    }

    /// Whether so many conversations of so many tokens have room at the same time.
    fn fits(&self, batch: usize, tokens: usize) -> bool {
        let card = self.batcher.machine();
        let need: PageCounts = (0..batch).map(|_| card.pages_for(tokens + WARM_UP, 0)).sum();
        need.fits(card.capacity())
    }

    /// Milliseconds of a decoding step: the mean over the steps in which everyone decodes.
    fn step_ms(
        &mut self,
        batch: usize,
        context: usize,
        steps: usize,
        plan: Option<Arc<ProbePlan>>,
    ) -> Result<f64, Problem> {
        let answers = Answers::default();
        for n in 0..batch {
            let prompt = self.prompt(n, context);
            self.submit(n, prompt, steps + WARM_UP, plan.clone(), None, &answers);
        }
        let before = self.batcher.work().generated_tokens;
        // Until every prompt is fed, and a few steps more for graphs to be recorded.
        while self.batcher.is_busy() && self.batcher.work().generated_tokens < before + 4 * batch as u64 {
            self.batcher.step()?;
        }
        let (began, mut timed) = (Instant::now(), 0);
        while self.batcher.is_busy() && timed < steps {
            let drawn = self.batcher.work().generated_tokens;
            self.batcher.step()?;
            if self.batcher.work().generated_tokens - drawn < batch as u64 {
                break;
            }
            timed += 1;
        }
        let seconds = began.elapsed().as_secs_f64();
        self.drain()?;
        results(&answers)?;
        if timed == 0 {
            return Err(Problem::new(format!("{batch} conversations of {context} tokens never ran together"))
                .hint("this is a defect in tiltmeter: please report it"));
        }
        Ok(1e3 * seconds / f64::from(timed as u32))
    }

    /// Conversations together, in the opposite order, and some of them alone.
    fn independence(&mut self, together: usize, compared: usize, tokens: usize) -> Result<Independence, Problem> {
        let plan = Arc::new(plan(&self.config, 2, 2));
        let length = |n: usize| 40 + (n * 37) % 300;
        let run = |bench: &mut Self, numbers: &mut dyn Iterator<Item = usize>| {
            let answers = Answers::default();
            for n in numbers {
                // The same prompt each time.
                let prompt = tokens_of(n, 0, length(n), bench.config.vocab_size);
                bench.submit(n, prompt, tokens + n % 7, Some(plan.clone()), None, &answers);
            }
            bench.drain()?;
            results(&answers)
        };
        let forwards = run(self, &mut (0..together))?;
        let backwards = run(self, &mut (0..together).rev())?;
        let mut row = Independence { together, compared: compared.min(together), ..Independence::default() };
        compare(&forwards, &backwards, &mut row);
        for i in 0..row.compared {
            let n = i * together / row.compared;
            let alone = run(self, &mut std::iter::once(n))?;
            let among: Vec<_> = forwards.iter().filter(|(other, _)| *other == n).cloned().collect();
            compare(&alone, &among, &mut row);
        }
        Ok(row)
    }

    /// Whole conversations: each turn's prompt goes on from all that stands before, as an experiment's does.
    fn rollouts(&mut self, rollouts: &Rollouts) -> Result<RolloutsRow, Problem> {
        let plan = Arc::new(plan(&self.config, 1, 1));
        let mut talks: Vec<Talk> = Vec::new();
        for condition in rollouts.conditions.values() {
            for reply in &condition.reply {
                let turns = condition.user.iter().zip(reply);
                let turns = turns.map(|(user, &reply)| (user + condition.system + rollouts.template_tokens, reply));
                talks.push(Talk { turns: turns.collect(), tokens: Vec::new(), turn: 0 });
            }
        }
        // Longest first: who ends last shall begin first.
        talks.sort_by_key(|talk| std::cmp::Reverse(talk.turns.iter().map(|(asked, said)| asked + said).sum::<usize>()));
        let before = self.batcher.work();
        let in_vain = self.batcher.machine().counts.in_vain;
        let base = self.next;
        self.next += talks.len() as u64;
        let answers = Answers::default();
        let began = Instant::now();
        for n in 0..talks.len() {
            self.next_turn(&mut talks[n], n, base, &plan, &answers);
        }
        while self.batcher.is_busy() {
            self.batcher.step()?;
            for (n, finished) in results(&answers)? {
                talks[n].tokens.extend(finished.generated);
                if talks[n].turn < talks[n].turns.len() {
                    self.next_turn(&mut talks[n], n, base, &plan, &answers);
                } else {
                    self.batcher.close(ConversationId(base + n as u64));
                }
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        let work = self.batcher.work();
        let repeated = |work: tiltmeter_model::EngineStats| work.forward_tokens - work.unique_tokens;
        Ok(RolloutsRow {
            conversations: talks.len(),
            seconds,
            generated_tokens: work.generated_tokens - before.generated_tokens,
            forward_tokens: work.forward_tokens - before.forward_tokens,
            repeated: repeated(work) - repeated(before),
            steps: work.steps - before.steps,
            in_vain: self.batcher.machine().counts.in_vain - in_vain,
        })
    }

    fn next_turn(&mut self, talk: &mut Talk, n: usize, base: u64, plan: &Arc<ProbePlan>, answers: &Answers) {
        let (asked, said) = talk.turns[talk.turn];
        talk.tokens.extend(tokens_of(n, talk.turn + 1, asked, self.config.vocab_size));
        talk.turn += 1;
        let conversation = Some(ConversationId(base + n as u64));
        self.submit(n, talk.tokens.clone(), said, Some(plan.clone()), conversation, answers);
    }

    /// Tokens all over the vocabulary, other ones in every conversation.
    fn prompt(&mut self, number: usize, length: usize) -> Vec<u32> {
        self.next += 1;
        tokens_of(number, self.next as usize, length, self.config.vocab_size)
    }

    fn submit(
        &mut self,
        number: usize,
        prompt: Vec<u32>,
        draws: usize,
        plan: Option<Arc<ProbePlan>>,
        conversation: Option<ConversationId>,
        answers: &Answers,
    ) {
        let (answers, begin) = (answers.clone(), prompt.len());
        let answer = Box::new(move |result: Result<Finished, ModelError>| {
            let result = result.map_err(|error| error.problem());
            answers.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((number, result));
        });
        let drawing = SamplingParams {
            sampling: Sampling { temperature: 1.0, ..Sampling::default() },
            seed: SeedKey { key: 7, stream: number as u64 },
            max_new_tokens: draws,
            stop_ids: Vec::new(),
        };
        let mut sequence = Sequence::new(prompt, Some(drawing), answer);
        let replies = begin..usize::MAX;
        sequence.recorder = plan.map(|plan| Recorder::new(plan, [replies].into()));
        sequence.conversation = conversation;
        self.batcher.submit(sequence);
    }

    fn drain(&mut self) -> Result<(), Problem> {
        while self.batcher.is_busy() {
            self.batcher.step()?;
        }
        Ok(())
    }
}

/// A conversation of recorded lengths.
struct Talk {
    /// Tokens asked and said.
    turns: Vec<(usize, usize)>,
    tokens: Vec<u32>,
    turn: usize,
}

fn tokens_of(number: usize, round: usize, length: usize, vocab: usize) -> Vec<u32> {
    let begin = number as u64 * 104_729 + round as u64 * 1_299_709;
    (0..length as u64).map(|i| ((begin + i * 7919) % vocab as u64) as u32).collect()
}

/// What was answered since the last call.
fn results(answers: &Answers) -> Result<Vec<(usize, Summary)>, Problem> {
    let taken = std::mem::take(&mut *answers.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    let summary = |(n, result): (usize, Result<Finished, Problem>)| {
        result.map(|finished| (n, Summary { generated: finished.generated, readouts: finished.readouts }))
    };
    taken.into_iter().map(summary).collect()
}

#[derive(Clone)]
struct Summary {
    generated: Vec<u32>,
    readouts: Vec<Readout>,
}

/// Counts what differs between two runs of the same conversations.
fn compare(some: &[(usize, Summary)], others: &[(usize, Summary)], row: &mut Independence) {
    for (n, one) in some {
        let Some((_, other)) = others.iter().find(|(other, _)| other == n) else { continue };
        row.tokens += one.generated.len();
        row.differing_tokens += one.generated.iter().zip(&other.generated).filter(|(a, b)| a != b).count();
        row.differing_tokens += one.generated.len().abs_diff(other.generated.len());
        let values = |summary: &Summary| -> Vec<u32> {
            let probes = summary.readouts.iter().flat_map(|readout| &readout.projections);
            probes.flat_map(|probe| probe.per_token.iter().map(|value| value.to_bits())).collect()
        };
        let (one, other) = (values(one), values(other));
        row.projections += one.len();
        row.differing_projections += one.iter().zip(&other).filter(|(a, b)| a != b).count();
        row.differing_projections += one.len().abs_diff(other.len());
    }
}

/// Some directions at some blocks, spread over the depth.
fn plan(config: &ModelConfig, axes: usize, sites: usize) -> ProbePlan {
    let sites = sites.clamp(1, config.num_layers);
    let unit = |n: usize| -> Vec<f32> {
        let values: Vec<f32> = (0..config.hidden_size).map(|i| ((i * (n + 3)) % 17) as f32 - 8.0).collect();
        let norm = values.iter().map(|v| v * v).sum::<f32>().sqrt();
        values.into_iter().map(|v| v / norm).collect()
    };
    let units: Vec<Vec<f32>> = (0..axes).map(unit).collect();
    let site = |i: usize| Site::BlockOut((i + 1) * config.num_layers / sites - 1);
    let probe = |i: usize| {
        units.iter().enumerate().map(move |(n, unit)| Probe {
            name: format!("axis {n}"),
            site: site(i),
            unit: unit.clone(),
        })
    };
    ProbePlan { probes: (0..sites).flat_map(probe).collect(), span: Span::Content, vectors: Vec::new() }
}

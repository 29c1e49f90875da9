//! `tiltmeter bench`: arguments and table.

use std::path::{Path, PathBuf};
use tiltmeter_model::input;

use clap::Args;

use super::{
    Exit, Failure,
    args::{DtypeChoice, parse_count, parse_device},
    terminal::{escape, stderr, stdout},
};
use crate::session::{self, Bench, BenchModel, BenchRequest, Device, EngineOptions, KvType, Rollouts, WeightType};
use tiltmeter_model::problem::Problem;

/// Measure how fast a model runs on this machine.
///
/// Measures memory bandwidth and peak arithmetic first, then prefill, decoding of several batches and capture beside them. Nothing else
/// should run meanwhile.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter bench data/models/quay
  tiltmeter bench allenai/Olmo-3-7B-Instruct --batch 1,16 --context 2048
  tiltmeter bench data/models/quay --threads 1 --json
  tiltmeter bench allenai/Olmo-3-7B-Instruct --device cuda --batch 16,48 --context 2048,4096
  tiltmeter bench --shape tests/gpu/olmo3_7b.json --device cuda --batch 1,16")]
pub struct BenchArgs {
    /// Folder or hub id
    #[arg(value_name = "MODEL", required_unless_present = "shape")]
    pub model: Option<String>,
    /// Conversations decoded together; several, separated by commas
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 4, 16], value_parser = parse_count)]
    pub batch: Vec<usize>,
    /// Tokens that each conversation already holds; several, separated by commas
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_values_t = [512], value_parser = parse_count)]
    pub context: Vec<usize>,
    /// Timed decode steps
    #[arg(long, value_name = "N", default_value = "32", value_parser = parse_count)]
    pub tokens: usize,
    /// Device: auto (a GPU if available), cpu, cuda (the first GPU) or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = parse_device)]
    pub device: Device,
    /// Type in which the weights are held [default: the one they have]
    #[arg(long, value_enum)]
    pub dtype: Option<DtypeChoice>,
    /// Type in which keys and values are kept [default: bf16 if the weights are, else f32]
    #[arg(long, value_enum)]
    pub kv: Option<DtypeChoice>,
    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub threads: Option<usize>,
    /// Measure synthetic weights of the shape in this config.json (GPU only)
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    pub shape: Option<PathBuf>,
    /// Also run whole conversations of the lengths in this JSON file
    #[arg(long, value_name = "FILE")]
    pub rollouts: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Axes and sites of the capture measurements.
const CAPTURES: [(usize, usize); 2] = [(8, 4), (8, 32)];

/// Conversations run alone once more on a GPU, to check that their bits do not depend on the batch.
const COMPARED: usize = 4;

pub fn execute(args: &BenchArgs) -> Result<Exit, Failure> {
    let model = match (&args.model, &args.shape) {
        (_, Some(shape)) => BenchModel::Shape(shape.clone()),
        (Some(model), None) => BenchModel::Checkpoint(model.strip_prefix("local/").unwrap_or(model).to_owned()),
        (None, None) => {
            return Err(Failure::from(Problem::new("no model is given").hint("name a model, or give --shape")));
        }
    };
    let (weights, kv) = (args.dtype.map(WeightType::from), args.kv.map(KvType::from));
    let options = EngineOptions { device: args.device, weights, kv, threads: args.threads, ..EngineOptions::default() };
    let request = BenchRequest {
        batches: args.batch.clone(),
        contexts: args.context.clone(),
        steps: args.tokens,
        captures: CAPTURES.to_vec(),
        compared: if matches!(args.device, Device::Cuda(_)) { COMPARED } else { 0 },
        rollouts: args.rollouts.as_deref().map(read_rollouts).transpose()?,
    };
    let bench = session::bench(&model, &options, &request, &mut |line| stderr(&format!("{line}\n")))?;
    stdout(&if args.json { format!("{:#}\n", serde_json::json!(bench)) } else { table(&bench) })?;
    Ok(Exit::Done)
}

fn read_rollouts(path: &Path) -> Result<Rollouts, Problem> {
    let at = |problem: Problem| problem.at(path.display().to_string());
    let text = input::read_text(path, input::MAX_TEXT)
        .map_err(|error| at(Problem::new(format!("cannot read the lengths: {error}"))))?;
    serde_json::from_str(&text).map_err(|error| {
        at(Problem::new(format!("not a table of rollout lengths: {error}")))
            .hint("it holds, per condition, `user` [turn], `system` and `reply` [sample][turn], all in tokens")
    })
}

fn table(bench: &Bench) -> String {
    let giga = |x: f64| format!("{:.1}", x / 1e9);
    let percent = |x: f64| format!("{:.0} %", 100.0 * x);
    let roofline = &bench.roofline;
    let threads = bench.threads.zip(bench.isa.as_deref());
    let threads = threads.map(|(threads, isa)| format!(", {threads} threads, {isa}")).unwrap_or_default();
    let peak = roofline.peak_flops.map(|peak| format!(", {} GFLOP/s", giga(peak))).unwrap_or_default();
    let mut text = format!(
        "model      {} ({}, {:.1} MB of linear weights, KV cache in {}, loaded in {:.2} s)\n\
         device     {}{threads}: {} GB/s{peak} at best\n\n\
         {:<10} {:>7} {:>10} {:>9} {:>9} {:>9} {:>9} {:>8}\n",
        escape(&bench.model),
        bench.dtype,
        roofline.weight_bytes as f64 / 1e6,
        bench.kv_dtype,
        bench.load_s,
        escape(&bench.device),
        giga(roofline.read_bytes_per_s),
        "",
        "context",
        "tokens/s",
        "ms",
        "floor ms",
        "of floor",
        "GFLOP/s",
        "of peak",
    );
    let mut row = |what: String,
                   context: usize,
                   tokens_per_s: f64,
                   ms: f64,
                   floor: Option<(f64, f64)>,
                   flops: f64,
                   share: Option<f64>| {
        text += format!(
            "{what:<10} {context:>7} {tokens_per_s:>10.1} {ms:>9.3} {:>9} {:>9} {:>9} {:>8}",
            floor.map(|(ms, _)| format!("{ms:.3}")).unwrap_or_default(),
            floor.map(|(_, share)| percent(share)).unwrap_or_default(),
            giga(flops),
            share.map(percent).unwrap_or_default(),
        )
        .trim_end();
        text.push('\n');
    };
    if let Some(prefill) = &bench.prefill {
        let ms = 1e3 * prefill.tokens as f64 / prefill.tokens_per_s;
        row("prefill".into(), prefill.tokens, prefill.tokens_per_s, ms, None, prefill.flops, prefill.share_of_peak);
    }
    for one in &bench.decode {
        let floor = Some((one.floor_ms, one.share_of_floor));
        let what = format!("decode x{}", one.batch);
        row(what, one.context, one.tokens_per_s, one.step_ms, floor, one.flops, one.share_of_peak);
    }
    text.push('\n');
    for row in &bench.capture {
        text += &format!(
            "capture    {} axes at {} sites, x{} at {}: {:.3} ms instead of {:.3} ms per step, {:+.2} %\n",
            row.axes,
            row.sites,
            row.batch,
            row.context,
            row.step_ms,
            row.step_ms_without,
            100.0 * row.overhead
        );
    }
    if let Some(row) = &bench.independence {
        text += &format!(
            "bits       {} of {} tokens and {} of {} projections differ ({} together, reversed, and {} alone)\n",
            row.differing_tokens, row.tokens, row.differing_projections, row.projections, row.together, row.compared
        );
    }
    if let Some(row) = &bench.rollouts {
        text += &format!(
            "rollouts   {} conversations, {} tokens generated, {} computed ({} repeated), {} steps: {:.1} s\n",
            row.conversations, row.generated_tokens, row.forward_tokens, row.repeated, row.steps, row.seconds
        );
    }
    bench.left_out.iter().for_each(|what| text += &format!("left out   {what}\n"));
    text
}

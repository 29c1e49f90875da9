//! Owns the way from a command to what a session does with it, and back to what a person sees.
//! Must not know: inference, HTTP.

use std::{
    io::{IsTerminal, stdin, stdout as standard_output},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Command, Exit, Failure,
    axis::{self, AxisCommand, ImportArgs},
    bench,
    capture::{CaptureArgs, SitesChoice},
    carry::{carry_out, resume_command, tell_upload, wrote},
    chat::{self, ChatArgs},
    errors,
    folder::{AnalyzeArgs, CollectArgs, RetryArgs, StatusArgs, UploadArgs, ValidateArgs},
    report::ReportArgs,
    run::{self, DeviceChoice, PlanArgs, RunArgs},
    slurm, status,
    terminal::{Paint, escape, stderr, stdout},
    view,
};
use crate::session::{
    self, Analysed, CaptureRequest, Device, EngineOptions, Forecast, Invocation, KvType, ModelOptions, PreparedRun,
    ReportInput, Retry, RunOptions, Talk, WeightType,
};
use tiltmeter_axis_formats::{ImportRequest, import};
use tiltmeter_experiments::config::Loaded;
use tiltmeter_model::Sampling;
use tiltmeter_model::probe::AxisFile;
use tiltmeter_model::problem::Problem;
use tiltmeter_report::{Options, distribution_terminal, response_terminal, terminal as tables};
use tiltmeter_scheduler::dollars;
use tiltmeter_store::RunFolder;

/// Carries a command out.
pub fn execute(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Run(args) => run_command(args),
        Command::Plan(args) => plan_command(&args),
        Command::Status(args) => status_command(&args),
        Command::Retry(args) => retry_command(&args),
        Command::Report(args) => report_command(args),
        Command::Analyze(args) => analyze_command(&args),
        Command::Collect(args) => collect_command(&args),
        Command::Validate(args) => validate_command(&args),
        Command::Upload(args) => upload_command(&args),
        Command::Capture(args) => capture_command(args),
        Command::Chat(args) => chat_command(&args),
        Command::Bench(args) => bench::execute(&args),
        Command::Slurm(command) => slurm::execute(command),
        Command::Axis(AxisCommand::Show(args)) => {
            stdout(&axis::render(&AxisFile::open(&args.file)?))?;
            Ok(Exit::Done)
        }
        Command::Axis(AxisCommand::Import(args)) => import_command(args),
    }
}

pub(super) fn device(choice: DeviceChoice) -> Device {
    match choice {
        DeviceChoice::Auto => Device::Auto,
        DeviceChoice::Cpu => Device::Cpu,
        DeviceChoice::Cuda(number) => Device::Cuda(number),
    }
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(Problem::new(format!("the program's threads cannot start: {error}"))))?;
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        // SIGXFSZ ends a program without a word. Once somebody listens, the write that met the limit fails instead, and says so.
        const FILE_SIZE_LIMIT: i32 = 25;
        let _guard = runtime.enter();
        let _ = signal(SignalKind::from_raw(FILE_SIZE_LIMIT));
    }
    Ok(runtime)
}

pub(super) fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    escape(text.strip_prefix("./").unwrap_or(&text)).into_owned()
}

fn run_command(args: RunArgs) -> Result<Exit, Failure> {
    let opening = ModelOptions {
        device: device(args.device),
        engine: EngineOptions { threads: args.threads, ..Default::default() },
        rate_share: args.rate_share,
        for_plan: args.dry_run,
    };
    let loaded = session::load(&args.file, &args.set)?;
    if args.dry_run {
        return show_plan(loaded, &opening, None);
    }
    errors::print_notes(&loaded.notes);
    let prepared = session::prepare(loaded, &opening)?;
    errors::print_notes(&prepared.notes);
    print_ready(&prepared.ready);
    let again = resume_command(&args);
    let running = RunOptions {
        out: args.out,
        // A job begins or goes on, whichever is first.
        resume: args.resume || args.job.is_some(),
        accept_drift: args.accept_drift,
        invocation: Some(Invocation::new(&args.file, &args.set)?),
        parallel: args.parallel,
        job: args.job,
        only: (!args.only.is_empty()).then(|| args.only.clone()),
        task: args.task,
        pull: args.pull,
        pause: Some(Arc::new(|text: &str| Box::pin(run::wait_for_enter(text.to_owned())))),
    };
    carry_out(prepared, &running, args.progress, &again)
}

/// What was found in order before the start.
fn print_ready(ready: &[String]) {
    let tick = Paint::for_stderr().green("✓");
    stderr(&ready.iter().map(|line| format!("{tick} {}\n", escape(line))).collect::<String>());
}

fn plan_command(args: &PlanArgs) -> Result<Exit, Failure> {
    show_plan(session::load(&args.file, &args.set)?, &ModelOptions::default(), args.out.as_deref())
}

fn show_plan(loaded: Loaded, opening: &ModelOptions, out: Option<&Path>) -> Result<Exit, Failure> {
    errors::print_notes(&loaded.notes);
    let file = loaded.path.display().to_string();
    let prepared = session::prepare(loaded, &ModelOptions { for_plan: true, ..*opening })?;
    let experiment = ("experiment".to_owned(), format!("{} ({file})", prepared.name()));
    let rows = std::iter::once(experiment).chain(prepared.describe());
    stdout(&rows.map(|(what, how)| format!("{what:<11} {}\n", escape(&how))).collect::<String>())?;
    stdout(&forecast(prepared.forecast()))?;
    stdout(&format!("plan        {}\n", prepared.plan().hash()))?;
    stdout(&time(&prepared)?)?;
    if let Some(out) = out {
        let folder = RunFolder::at(out);
        stdout(&wrote(&folder, &prepared.write_plan(&folder)?))?;
    }
    errors::print_notes(&prepared.notes);
    Ok(Exit::Done)
}

/// Cells, context and the first prompt of each, as the model sees it; calls and what they may cost.
fn forecast(forecast: &Forecast) -> String {
    let mut text = String::new();
    if let Some(limit) = forecast.limit {
        text += &format!("context     {limit} tokens, replies of at most {}\n", forecast.max_new_tokens);
    }
    let width = forecast.cells.iter().map(|cell| cell.cell.len()).max().unwrap_or(0);
    for cell in &forecast.cells {
        let tokens = cell.tokens.map(|tokens| {
            let overflow = match tokens.may_overflow_at {
                Some(turn) => format!("may overflow from turn {turn} on"),
                None => "always fits".to_owned(),
            };
            format!(", {} to {} tokens at the last turn: {overflow}", tokens.least, tokens.most)
        });
        text += &format!(
            "  {:<width$}  {} runs x {} turns{}\n",
            cell.cell,
            cell.runs,
            cell.turns,
            tokens.unwrap_or_default()
        );
    }
    if forecast.paid_calls > 0 {
        let most = forecast.worst_micro_usd.map(|worst| format!(", {} at the very most", dollars(worst)));
        text += &format!("calls       {} paid calls{}\n", forecast.paid_calls, most.unwrap_or_default());
    }
    for cell in forecast.cells.iter().filter(|cell| !cell.first_prompt.is_empty()) {
        let prompt: String = cell.first_prompt.lines().map(|line| format!("  | {}\n", escape(line))).collect();
        text += &format!("first prompt of {}\n{prompt}", cell.cell);
    }
    text
}

/// How long it may take, from a few tokens generated now.
fn time(prepared: &PreparedRun) -> Result<String, Failure> {
    /// A short reply of a model behind an API.
    const CALL_S: f64 = 3.0;
    if prepared.forecast().paid_calls > 0 {
        let shown = view::short_duration(Duration::from_secs_f64(prepared.seconds_at(CALL_S)));
        return Ok(format!(
            "time        about {shown} if a call takes {CALL_S} s; limits per minute may make it longer\n"
        ));
    }
    let Some(seconds) = runtime()?.block_on(prepared.estimate_seconds())? else { return Ok(String::new()) };
    let shown = view::short_duration(Duration::from_secs_f64(seconds));
    Ok(format!(
        "time        up to about {shown} if every reply is as long as allowed (measured on a few tokens just now)\n"
    ))
}

fn retry_command(args: &RetryArgs) -> Result<Exit, Failure> {
    let Some(retry) = session::retry(&args.folder, &ModelOptions::default())? else {
        stdout("every run is done\n")?;
        return Ok(Exit::Done);
    };
    let Retry { prepared, running, failed, not_finished, archive } = retry;
    stderr(&format!("trying again: {failed} runs that failed, {not_finished} that are not finished\n"));
    if let Some(archive) = archive {
        stderr(&format!("what failed runs left is in {}\n", shown(&archive)));
    }
    errors::print_notes(&prepared.notes);
    let again = format!("tiltmeter retry {}", shown(&args.folder));
    carry_out(prepared, &RunOptions { parallel: args.parallel, ..running }, args.progress, &again)
}

fn status_command(args: &StatusArgs) -> Result<Exit, Failure> {
    let folder = session::find_folder(&args.folder)?;
    stdout(&status::render(&tiltmeter_scheduler::status(&folder)?, Paint::for_stdout()))?;
    if let Some(now) = session::live(&folder)? {
        let lanes = now.lanes.iter().filter(|lane| lane.calls + lane.waiting as u64 > 0);
        stdout(&lanes.map(|lane| format!("lane       {}\n", escape(&view::lane(lane)))).collect::<String>())?;
    }
    Ok(Exit::Done)
}

fn collect_command(args: &CollectArgs) -> Result<Exit, Failure> {
    let folder = session::find_folder(&args.folder)?;
    stdout(&wrote(&folder, &session::collect(&args.folder)?))?;
    Ok(Exit::Done)
}

fn analyze_command(args: &AnalyzeArgs) -> Result<Exit, Failure> {
    let Analysed { analysis, mut standing, notes, files } = session::analyse(&args.folder, args.report)?;
    let written: String = files.iter().map(|path| format!("wrote      {}\n", shown(path))).collect();
    if args.json {
        standing.extend(analysis.document());
        stdout(&format!("{:#}\n", serde_json::Value::from(standing)))?;
        // Standard output is the document's alone.
        stderr(&written);
    } else {
        stdout(&format!("{}\n{written}", terminal_text(&analysis.page.text)))?;
    }
    errors::print_notes(&notes);
    Ok(Exit::Done)
}

/// A page without what a terminal would show as it is: control characters; tabs and line breaks stay.
fn terminal_text(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", escape(line))).collect()
}

fn upload_command(args: &UploadArgs) -> Result<Exit, Failure> {
    let uploaded = runtime()?.block_on(session::upload_pending(&args.folders, args.repo.as_deref()))?;
    if uploaded.is_empty() {
        stdout("nothing is pending\n")?;
    }
    let mut exit = Exit::Done;
    for one in &uploaded {
        if !tell_upload(one)? {
            exit = Exit::SomeFailed;
        }
    }
    Ok(exit)
}

fn validate_command(args: &ValidateArgs) -> Result<Exit, Failure> {
    let found = session::validate(&args.folder)?;
    let paint = Paint::for_stdout();
    for line in &found.sound {
        stdout(&format!("{} {}\n", paint.green("✓"), escape(line)))?;
    }
    errors::print(&found.defects);
    Ok(if found.defects.is_empty() { Exit::Done } else { Exit::SomeFailed })
}

fn report_command(args: ReportArgs) -> Result<Exit, Failure> {
    let options = Options { ddof: args.ddof, drop_flagged: args.drop_flagged, ..Options::default() };
    let input = match args.inputs.as_slice() {
        [one] if one.is_dir() => ReportInput::Folder(session::find_folder(one)?.dir().to_owned()),
        several => {
            if let Some(dir) = several.iter().find(|path| path.is_dir()) {
                return Err(Problem::new("a folder is reported on by itself")
                    .at(dir.display().to_string())
                    .hint("give one run folder, or only JSON files")
                    .into());
            }
            ReportInput::Documents(args.inputs)
        }
    };
    let reported = session::report(&input, &options)?;
    if args.json {
        stdout(&format!("{:#}\n", reported.json()))?;
        return Ok(Exit::Done);
    }
    for (comparison, analysis) in &reported.measures {
        stdout(&tables(comparison, analysis, true))?;
    }
    if let Some(key) = reported.key() {
        stdout(&format!("\n{key}"))?;
    }
    for (index, (distribution, analysis)) in reported.distributions.iter().enumerate() {
        let apart = if index > 0 || !reported.measures.is_empty() { "\n" } else { "" };
        stdout(&format!("{apart}{}", distribution_terminal(distribution, analysis)))?;
    }
    for (index, (response, analysis)) in reported.responses.iter().enumerate() {
        let first = index == 0 && reported.measures.is_empty() && reported.distributions.is_empty();
        let apart = if first { "" } else { "\n" };
        stdout(&format!("{apart}{}", response_terminal(response, analysis)))?;
    }
    Ok(Exit::Done)
}

fn capture_command(args: CaptureArgs) -> Result<Exit, Failure> {
    let (weights, kv) = (args.dtype.map(WeightType::from), args.kv.map(KvType::from));
    let engine = EngineOptions { weights, kv, ..Default::default() };
    let opening = ModelOptions { device: device(args.device), engine, ..Default::default() };
    let request = CaptureRequest {
        model: args.model,
        messages: args.messages,
        sites: match args.sites {
            SitesChoice::All => None,
            SitesChoice::These(sites) => Some(sites),
        },
        with_logits: args.logits,
        max_new_tokens: args.max_new_tokens.unwrap_or(0),
        temperature: args.temperature,
        seed: args.seed,
        out: args.out,
    };
    let started = Instant::now();
    let captured = runtime()?.block_on(session::capture(&request, &opening))?;
    let prompt = escape(&captured.prompt.text).into_owned();
    stdout(&format!("prompt ({} tokens)\n{prompt}\n", captured.prompt.token_ids.len()))?;
    if captured.generated > 0 {
        stdout(&format!("reply ({} tokens)\n{}\n", captured.generated, escape(&captured.reply)))?;
    }
    let sites = captured.sites.len();
    let seconds = started.elapsed().as_secs_f64();
    stdout(&format!("wrote {} ({sites} sites, {seconds:.1} s)\n", shown(&request.out)))?;
    Ok(Exit::Done)
}

fn chat_command(args: &ChatArgs) -> Result<Exit, Failure> {
    let sampling = Sampling { temperature: args.temperature, ..Sampling::default() };
    let axis = args.axis.as_deref().map(|path| (path, args.site));
    let opening = ModelOptions { device: device(args.device), ..Default::default() };
    let talk = Talk::open(&args.model, axis, sampling, args.seed, args.max_new_tokens, &opening)?;
    let runtime = runtime()?;
    let prompting = stdin().is_terminal() && standard_output().is_terminal();
    chat::converse(args.system.as_deref(), prompting, stdin().lock(), &mut standard_output(), |messages| {
        runtime.block_on(talk.answer(messages))
    })?;
    Ok(Exit::Done)
}

fn import_command(args: ImportArgs) -> Result<Exit, Failure> {
    // The model's own files say more than the person has to.
    let card = args.model.as_deref().map(session::model_facts).transpose()?;
    let file = import(&ImportRequest {
        path: args.file,
        tensor: args.tensor,
        index_base: args.index_base.map(Into::into),
        site: args.site,
        name: args.name,
        num_layers: args.num_layers.or(card.as_ref().map(|facts| facts.num_layers)),
        fingerprint: card.map(|facts| facts.fingerprint),
    })?;
    file.write(&args.out)?;
    stdout(&axis::render(&AxisFile::open(&args.out)?))?;
    stdout(&format!("wrote {}\n", shown(&args.out)))?;
    Ok(Exit::Done)
}

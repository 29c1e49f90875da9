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
    capture::{CaptureArgs, DtypeChoice, SitesChoice},
    chat::{self, ChatArgs},
    errors,
    progress::ProgressDisplay,
    report::ReportArgs,
    run::{self, DeviceChoice, PlanArgs, RunArgs, StatusArgs},
    status,
    terminal::{Paint, escape, stdout},
};
use crate::{
    model::Sampling,
    probe::{AxisFile, import},
    problem::Problem,
    report::{Options, terminal as tables},
    scheduler::{Progress, RunState, StopLevel, StopSignal},
    session::{
        self, CaptureRequest, Device, EngineOptions, Forecast, Opening, Prepared, ReportInput, Running, Sitting, Talk,
        WeightType,
    },
    spec::{self, transcript},
};

/// Carries a command out.
pub fn execute(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Run(args) => run_command(args),
        Command::Plan(args) => plan_command(&args),
        Command::Status(args) => status_command(&args),
        Command::Report(args) => report_command(args),
        Command::Capture(args) => capture_command(args),
        Command::Chat(args) => chat_command(&args),
        Command::Axis(AxisCommand::Show(args)) => {
            stdout(&axis::render(&AxisFile::open(&args.file)?))?;
            Ok(Exit::Done)
        }
        Command::Axis(AxisCommand::Import(args)) => import_command(args),
    }
}

fn device(choice: DeviceChoice) -> Device {
    match choice {
        DeviceChoice::Auto => Device::Auto,
        DeviceChoice::Cpu => Device::Cpu,
        DeviceChoice::Cuda => Device::Cuda,
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
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

fn run_command(args: RunArgs) -> Result<Exit, Failure> {
    let opening =
        Opening { device: device(args.device), engine: EngineOptions { threads: args.threads, ..Default::default() } };
    let loaded = spec::load(&args.file, &args.set)?;
    if args.dry_run {
        return show_plan(loaded, &opening);
    }
    errors::print_notes(&loaded.notes);
    let prepared = session::prepare(loaded, &opening)?;
    errors::print_notes(&prepared.notes);
    let again = resume_command(&args);
    let running = Running { out: args.out, resume: args.resume, accept_drift: args.accept_drift };
    let progress = Arc::new(Progress::new());
    let begun = || progress.snapshot().elapsed_s > 0.0;
    let sitting = runtime()?.block_on(async {
        let stop = StopSignal::listen()?;
        let mut display = ProgressDisplay::new(args.progress);
        let mut level = StopLevel::None;
        let work = prepared.run(&running, progress.clone(), stop.clone());
        tokio::pin!(work);
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        loop {
            let next = match level {
                StopLevel::None => StopLevel::Drain,
                StopLevel::Drain => StopLevel::Stop,
                StopLevel::Stop | StopLevel::Abort => StopLevel::Abort,
            };
            tokio::select! {
                // What was asked for is said before its effect, however soon that comes.
                biased;
                () = stop.reached(next), if level < StopLevel::Abort => {
                    level = stop.level();
                    display.say(stopping(level));
                }
                done = &mut work => {
                    if begun() {
                        display.end(&progress);
                    }
                    return done;
                }
                _ = tick.tick() => {
                    if begun() {
                        display.poll(&progress);
                    }
                }
            }
        }
    });
    let sitting = sitting.map_err(|problem| match begun() {
        true => Failure::internal(problem),
        false => problem.into(),
    })?;
    finish(&sitting, &again)
}

/// The command that goes on where this one stops.
fn resume_command(args: &RunArgs) -> String {
    let mut command = format!("tiltmeter run {} --resume", shown(&args.file));
    command.extend(args.out.iter().map(|out| format!(" --out {}", shown(out))));
    command.extend(args.set.iter().map(|(key, value)| format!(" --set '{}={}'", escape(key), escape(value))));
    command
}

fn stopping(level: StopLevel) -> &'static str {
    match level {
        StopLevel::None => "",
        StopLevel::Drain => {
            "stopping: running conversations are finished, no new one starts; Ctrl+C again stops at the next turn"
        }
        StopLevel::Stop => "stopping at the next turn; Ctrl+C again stops at once",
        StopLevel::Abort => "stopping now",
    }
}

/// Says what came out, and how to go on where something is left.
fn finish(sitting: &Sitting, again: &str) -> Result<Exit, Failure> {
    if let Some(reported) = &sitting.reported {
        for (comparison, analysis) in &reported.measures {
            stdout(&format!("\n{}", tables(comparison, analysis, false)))?;
        }
    }
    let work = sitting.work;
    if work.unique_tokens > 0 {
        let ratio = work.forward_tokens as f64 / work.unique_tokens as f64;
        stdout(&format!(
            "\nwork       {} forward token-passes for {} unique tokens: {ratio:.3} per token, {} generated, {} steps\n",
            work.forward_tokens, work.unique_tokens, work.generated_tokens, work.steps
        ))?;
    }
    stdout(&format!("folder     {}\n", shown(sitting.folder.dir())))?;
    for path in &sitting.files {
        stdout(&format!("wrote      {}\n", shown(path)))?;
    }
    let summary = &sitting.summary;
    for (key, state) in &summary.outcomes {
        if let RunState::Failed(problem) = state {
            errors::print(std::slice::from_ref(&Problem {
                what: format!("{}: {}", key.id(), problem.what),
                ..problem.clone()
            }));
        }
    }
    if summary.interrupted {
        let kept = format!("stopped: {} runs are finished, {} are left", summary.completed, summary.pending);
        errors::print_notes(&[Problem::new(kept).hint(format!("every finished turn is kept; go on with {again}"))]);
        return Ok(Exit::Interrupted);
    }
    Ok(if summary.failed > 0 { Exit::SomeFailed } else { Exit::Done })
}

fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    escape(text.strip_prefix("./").unwrap_or(&text)).into_owned()
}

fn plan_command(args: &PlanArgs) -> Result<Exit, Failure> {
    show_plan(spec::load(&args.file, &args.set)?, &Opening::default())
}

fn show_plan(loaded: spec::Loaded, opening: &Opening) -> Result<Exit, Failure> {
    errors::print_notes(&loaded.notes);
    let spec::Spec::Projection(projection) = &loaded.spec;
    let description = run::describe(&loaded, &transcript::load(&projection.transcript)?);
    let prepared = session::prepare(loaded, opening)?;
    stdout(&description)?;
    stdout(&forecast(prepared.forecast()))?;
    stdout(&format!("plan        {}\n", prepared.plan().hash()))?;
    stdout(&time(&prepared)?)?;
    errors::print_notes(&prepared.notes);
    Ok(Exit::Done)
}

/// Cells, context and the first prompt of each, as the model sees it.
fn forecast(forecast: &Forecast) -> String {
    let mut text = format!("context     {} tokens, replies of at most {}\n", forecast.limit, forecast.max_new_tokens);
    let width = forecast.cells.iter().map(|cell| cell.cell.len()).max().unwrap_or(0);
    for cell in &forecast.cells {
        let overflow = match cell.may_overflow_at {
            Some(turn) => format!("may overflow from turn {turn} on"),
            None => "always fits".to_owned(),
        };
        text += &format!(
            "  {:<width$}  {} runs x {} turns, {} to {} tokens at the last turn: {overflow}\n",
            cell.cell, cell.runs, cell.turns, cell.least_tokens, cell.most_tokens
        );
    }
    for cell in &forecast.cells {
        let prompt: String = cell.first_prompt.lines().map(|line| format!("  | {}\n", escape(line))).collect();
        text += &format!("first prompt of {}\n{prompt}", cell.cell);
    }
    text
}

/// How long it may take, from a few tokens generated now.
fn time(prepared: &Prepared) -> Result<String, Failure> {
    let seconds = runtime()?.block_on(prepared.estimate_seconds())?;
    let shown = super::progress::short_duration(Duration::from_secs_f64(seconds));
    Ok(format!(
        "time        up to about {shown} if every reply is as long as allowed (measured on a few tokens just now)\n"
    ))
}

fn status_command(args: &StatusArgs) -> Result<Exit, Failure> {
    let folder = session::find_folder(&args.folder)?;
    stdout(&status::render(&crate::scheduler::status(&folder)?, Paint::for_stdout()))?;
    Ok(Exit::Done)
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
    for (index, (comparison, analysis)) in reported.measures.iter().enumerate() {
        if args.json && index == 0 {
            let json = serde_json::to_string_pretty(analysis)
                .map_err(|error| Failure::internal(Problem::new(format!("the analysis cannot be written: {error}"))))?;
            stdout(&format!("{json}\n"))?;
        } else if !args.json {
            stdout(&tables(comparison, analysis, true))?;
        }
    }
    Ok(Exit::Done)
}

fn capture_command(args: CaptureArgs) -> Result<Exit, Failure> {
    let weights = args.dtype.map(|dtype| match dtype {
        DtypeChoice::F32 => WeightType::F32,
        DtypeChoice::Bf16 => WeightType::Bf16,
    });
    let opening = Opening { engine: EngineOptions { weights, ..Default::default() }, ..Default::default() };
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
    let talk = Talk::open(&args.model, axis, sampling, args.seed, args.max_new_tokens, &Opening::default())?;
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
    let file = import::import(&import::ImportRequest {
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

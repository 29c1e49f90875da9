//! `chat`: an interactive conversation with a model, with the projection of each reply.

use std::{
    io::{BufRead, IsTerminal, Write, stdin, stdout},
    path::PathBuf,
};

use clap::Args;

use super::{
    Exit, Failure,
    args::{parse_count, parse_device, parse_site, parse_temperature},
    terminal::{counted, escape, runtime},
};
use crate::session::{Chat, Device, ModelOptions};
use tiltmeter_model::{ChatReply, Finish, Message, Problem, Role, Sampling, Site};

/// Chat with a model and see the projection of each reply.
///
/// Type a message and press Enter. `/reset` starts a new conversation; `/quit` or Ctrl+D ends.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter chat data/models/quay
  tiltmeter chat data/models/quay --axis data/axes/quay_assistant.safetensors --site block.4.out
  tiltmeter chat allenai/Olmo-3-7B-Instruct --system \"Be brief.\"
  printf 'Hello\\nAnd now?\\n' | tiltmeter chat data/models/quay --temperature 0")]
pub struct ChatArgs {
    /// Model folder or Hugging Face model id
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Axis file to project each reply on
    #[arg(long, value_name = "FILE")]
    pub axis: Option<PathBuf>,
    /// Site of the projection [default: the axis file's only site]
    #[arg(long, value_name = "SITE", value_parser = parse_site, requires = "axis")]
    pub site: Option<Site>,
    /// System prompt
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Temperature; 0 is greedy
    #[arg(long, value_name = "T", default_value_t = 0.7, value_parser = parse_temperature, allow_negative_numbers = true)]
    pub temperature: f64,
    /// Seed
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
    /// Maximum tokens per reply
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = parse_count, allow_negative_numbers = true)]
    pub max_new_tokens: usize,
    /// Device: auto (a GPU if available), cpu, cuda (the first GPU) or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = parse_device)]
    pub device: Device,
}

pub(super) fn execute(args: &ChatArgs) -> Result<Exit, Failure> {
    let sampling = Sampling { temperature: args.temperature, ..Sampling::default() };
    let axis = args.axis.as_deref().map(|path| (path, args.site));
    let models = ModelOptions { device: args.device, ..Default::default() };
    let chat = Chat::open(&args.model, axis, sampling, args.seed, args.max_new_tokens, &models)?;
    let runtime = runtime()?;
    let interactive = stdin().is_terminal() && stdout().is_terminal();
    converse(args.system.as_deref(), interactive, stdin().lock(), &mut stdout(), |messages| {
        runtime.block_on(chat.answer(messages))
    })?;
    Ok(Exit::Done)
}

/// Reads one message per line of `input` and prints the reply of `answer` to all messages so far. `interactive` prints a prompt sign. If a
/// reply fails, the error is printed and its message is removed; a closed `output` ends the conversation.
fn converse(
    system: Option<&str>,
    interactive: bool,
    input: impl BufRead,
    output: &mut impl Write,
    mut answer: impl FnMut(&[Message]) -> Result<ChatReply, Problem>,
) -> Result<(), Problem> {
    let initial: Vec<Message> = system.map(|text| Message::new(Role::System, text)).into_iter().collect();
    let mut messages = initial.clone();
    let mut print = |text: &str| output.write_all(text.as_bytes()).and_then(|()| output.flush()).is_ok();
    let prompt = if interactive { "> " } else { "" };
    if !print(prompt) {
        return Ok(());
    }
    for line in input.lines() {
        let line = line.map_err(|error| Problem::new(format!("the input cannot be read: {error}")))?;
        let mut is_open = true;
        match line.trim() {
            "" => {}
            "/quit" | "/exit" => return Ok(()),
            "/reset" => {
                messages.clone_from(&initial);
                is_open = print("(new conversation)\n");
            }
            text => {
                messages.push(Message::new(Role::User, text));
                match answer(&messages) {
                    Ok(reply) => {
                        is_open = print(&reply_text(&reply));
                        messages.push(reply.message);
                    }
                    Err(problem) => {
                        messages.pop();
                        is_open = print(&format!("error: {}\n", escape(&problem.to_string())));
                    }
                }
            }
        }
        if !is_open || !print(prompt) {
            return Ok(());
        }
    }
    if interactive {
        print("\n");
    }
    Ok(())
}

/// A reply, followed by a line of measurements.
fn reply_text(reply: &ChatReply) -> String {
    let mut notes: Vec<String> = Vec::new();
    if let Some(readout) = &reply.readout {
        notes.extend(readout.projections.iter().map(|p| format!("{} at {}: {:+.4}", escape(&p.name), p.site, p.mean)));
        notes.push(counted(readout.measured_tokens as u64, "token"));
    }
    match reply.finish {
        Finish::Stop => {}
        Finish::Length => notes.push("truncated at --max-new-tokens".into()),
        Finish::ContentFilter => notes.push("stopped by a content filter".into()),
    }
    let text = escape(reply.message.content.trim_end());
    if notes.is_empty() { format!("{text}\n") } else { format!("{text}\n  [{}]\n", notes.join(" | ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiltmeter_model::Usage;
    use tiltmeter_model::probe::{ProbeReadout, Readout};

    fn reply(text: &str, mean: f32) -> ChatReply {
        let projection = ProbeReadout { name: "warm".into(), site: Site::BlockOut(4), mean, per_token: vec![mean; 3] };
        ChatReply {
            message: Message::new(Role::Assistant, text),
            token_ids: vec![1, 2, 3],
            finish: Finish::Stop,
            usage: Usage::default(),
            reused_tokens: 0,
            readout: Some(Readout { measured_tokens: 3, projections: vec![projection], vectors: Vec::new() }),
            version: None,
        }
    }

    fn transcript(input: &str, answer: impl FnMut(&[Message]) -> Result<ChatReply, Problem>) -> String {
        let mut output = Vec::new();
        converse(Some("Be brief."), false, input.as_bytes(), &mut output, answer).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn reset_restores_the_system_prompt() {
        let mut seen = Vec::new();
        let output = transcript("Hello\n\nAgain\n/reset\nNew\n/quit\nnever\n", |messages| {
            seen.push(messages.len());
            Ok(reply("ok\x1b[2J", -1.5))
        });
        assert_eq!(seen, [2, 4, 2]);
        let answer = "ok\\u{1b}[2J\n  [warm at block.4.out: -1.5000 | 3 tokens]\n";
        assert_eq!(output, format!("{answer}{answer}(new conversation)\n{answer}"));
    }

    #[test]
    fn a_failed_reply_removes_its_message() {
        let mut seen = Vec::new();
        let output = transcript("one\ntwo\n", |messages| {
            seen.push(messages.len());
            Err(Problem::new("too long").hint("start again with /reset"))
        });
        assert_eq!(seen, [2, 2]);
        assert!(output.starts_with("error: too long\n  hint: start again with /reset\n"), "{output}");
    }

    #[test]
    fn a_closed_pipe_ends_the_conversation_quietly() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut calls = 0;
        let answer = |_: &[Message]| {
            calls += 1;
            Ok(reply("x", 0.0))
        };
        converse(None, true, "a\nb\n".as_bytes(), &mut Closed, answer).unwrap();
        assert_eq!(calls, 0);
    }
}

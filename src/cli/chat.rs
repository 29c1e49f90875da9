//! Owns `chat`: its arguments and the conversation at the keyboard, with the projection of each reply beside it.
//! Must not know: inference, HTTP.

use std::{
    io::{BufRead, Write},
    path::PathBuf,
};

use clap::Args;

use super::{parse_count, parse_site, parse_temperature, terminal::escape};
use crate::{
    model::{ChatReply, Finish, Message, Role},
    probe::Site,
    problem::Problem,
};

/// Talk to a model and watch the projection of each reply.
///
/// Type a message and press Enter. `/reset` begins again, `/quit` or the end of the input ends.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter chat data/models/tiny
  tiltmeter chat allenai/Olmo-3-7B-Instruct --axis data/axes/assistant.safetensors --system \"Be brief.\"
  printf 'Hello\\nAnd now?\\n' | tiltmeter chat data/models/tiny --temperature 0")]
pub struct ChatArgs {
    /// Model: a name on the hub, or a folder
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Axis to project each reply on
    #[arg(long, value_name = "FILE")]
    pub axis: Option<PathBuf>,
    /// Where to read [default: the axis' own site]
    #[arg(long, value_name = "SITE", value_parser = parse_site, requires = "axis")]
    pub site: Option<Site>,
    /// System prompt
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Temperature; 0 is greedy
    #[arg(long, value_name = "T", default_value_t = 0.7, value_parser = parse_temperature)]
    pub temperature: f64,
    /// Seed
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
    /// Longest reply in tokens
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = parse_count)]
    pub max_new_tokens: usize,
}

/// Holds a conversation: each line of `input` is a message, `answer` gets all messages so far. With `prompting` it shows where to
/// type. A problem with one reply is shown and takes that message back; a closed `output` ends the conversation.
pub fn converse(
    system: Option<&str>,
    prompting: bool,
    input: impl BufRead,
    output: &mut impl Write,
    mut answer: impl FnMut(&[Message]) -> Result<ChatReply, Problem>,
) -> Result<(), Problem> {
    let opening: Vec<Message> = system.map(|text| Message::new(Role::System, text)).into_iter().collect();
    let mut messages = opening.clone();
    let mut show = |text: &str| output.write_all(text.as_bytes()).and_then(|()| output.flush()).is_ok();
    let mark = if prompting { "> " } else { "" };
    if !show(mark) {
        return Ok(());
    }
    for line in input.lines() {
        let line = line.map_err(|error| Problem::new(format!("the input cannot be read: {error}")))?;
        let mut shown = true;
        match line.trim() {
            "" => {}
            "/quit" | "/exit" => return Ok(()),
            "/reset" => {
                messages.clone_from(&opening);
                shown = show("(the conversation begins again)\n");
            }
            text => {
                messages.push(Message::new(Role::User, text));
                match answer(&messages) {
                    Ok(reply) => {
                        shown = show(&reply_text(&reply));
                        messages.push(reply.message);
                    }
                    Err(problem) => {
                        messages.pop();
                        shown = show(&format!("error: {}\n", escape(&problem.to_string())));
                    }
                }
            }
        }
        if !shown || !show(mark) {
            return Ok(());
        }
    }
    if prompting {
        show("\n");
    }
    Ok(())
}

/// A reply, and below it one line with what was measured.
pub fn reply_text(reply: &ChatReply) -> String {
    let mut measured: Vec<String> = Vec::new();
    if let Some(readout) = &reply.readout {
        let each = readout.projections.iter();
        measured.extend(each.map(|p| format!("{} at {}: {:+.4}", escape(&p.name), p.site, p.mean)));
        measured.push(format!("{} tokens", readout.measured_tokens));
    }
    match reply.finish {
        Finish::Stop => {}
        Finish::Length => measured.push("cut at --max-new-tokens".into()),
        Finish::ContentFilter => measured.push("the rest was withheld".into()),
    }
    let text = escape(reply.message.content.trim_end());
    if measured.is_empty() { format!("{text}\n") } else { format!("{text}\n  [{}]\n", measured.join(" | ")) }
}

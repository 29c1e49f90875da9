//! The batch script of a submission. Its argument is the offset of its array.

use std::path::Path;

use super::Submission;

/// Resources of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// `HH:MM:SS`
    pub time: String,
    /// As in `4G`.
    pub mem: String,
    pub cpus: usize,
    pub partition: Option<String>,
    pub gres: Option<String>,
    pub account: Option<String>,
    /// Maximum number of simultaneous tasks; `None`: no limit.
    pub at_once: Option<usize>,
}

/// Seconds before the time limit at which a task gets SIGUSR2.
const WARNING_S: u32 = 120;

/// The batch script. A signal before the time limit lets runs in flight finish; a requeued task resumes its own journal.
pub fn script(
    submission: &Submission,
    experiment: &str,
    folder: &Path,
    program: &Path,
    resources: &Resources,
) -> String {
    let mut text = String::from("#!/bin/bash\n");
    let mut directive = |line: String| text.push_str(&format!("#SBATCH {line}\n"));
    directive(format!("--job-name=tiltmeter-{experiment}"));
    directive(format!("--output={}/slurm/logs/%A_%a.log", folder.display()));
    directive("--open-mode=append".to_owned());
    directive("--requeue".to_owned());
    directive(format!("--signal=B:USR2@{WARNING_S}"));
    directive(format!("--time={}", resources.time));
    directive(format!("--mem={}", resources.mem));
    directive(format!("--cpus-per-task={}", resources.cpus));
    for (name, value) in
        [("partition", &resources.partition), ("gres", &resources.gres), ("account", &resources.account)]
    {
        if let Some(value) = value {
            directive(format!("--{name}={value}"));
        }
    }
    let share = resources.at_once.unwrap_or(submission.count()).clamp(1, submission.count().max(1));
    text += &format!(
        "\n# `exec`, so that the program gets the signal.\nexec {} run {} --out {} --resume --progress plain \\\n",
        quoted(&program.display().to_string()),
        quoted(&submission.file.display().to_string()),
        quoted(&folder.display().to_string()),
    );
    for (key, value) in &submission.set {
        text += &format!("  --set {} \\\n", quoted(&format!("{key}={value}")));
    }
    text += &format!(
        "  --threads {} --rate-share {share} --task {}.$((SLURM_ARRAY_TASK_ID + ${{1:-0}}))\n",
        resources.cpus, submission.number
    );
    text
}

/// Quotes any text for the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_contains_everything_a_task_needs() {
        let submission = Submission {
            number: 2,
            plan_hash: "ab".into(),
            file: "/x/it's mine.yaml".into(),
            set: vec![("a.b".into(), "c d".into())],
            tasks: vec![vec!["a-000".into()]; 30],
            pull: None,
            budget_limit: None,
            arrays: Vec::new(),
        };
        let resources = Resources {
            time: "00:30:00".into(),
            mem: "4G".into(),
            cpus: 2,
            gres: Some("gpu:1".into()),
            at_once: Some(8),
            ..Resources::default()
        };
        let text = script(&submission, "night", Path::new("/out/x"), Path::new("/bin/tiltmeter"), &resources);
        for line in [
            "#SBATCH --output=/out/x/slurm/logs/%A_%a.log",
            "#SBATCH --signal=B:USR2@120",
            "#SBATCH --time=00:30:00",
            "#SBATCH --gres=gpu:1",
            r"exec '/bin/tiltmeter' run '/x/it'\''s mine.yaml' --out '/out/x' --resume --progress plain \",
            r"  --set 'a.b=c d' \",
            "  --threads 2 --rate-share 8 --task 2.$((SLURM_ARRAY_TASK_ID + ${1:-0}))",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
        assert!(!text.contains("partition"));
    }
}

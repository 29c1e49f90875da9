//! An auditor's reading of a journal: what was begun, what ended, what was paid, line by line as the form is documented.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use serde_json::Value;

/// What a journal says about money and steps.
#[derive(Debug, Default)]
pub struct Books {
    pub done: usize,
    pub done_twice: usize,
    /// Paid steps with a result.
    pub paid_steps: usize,
    /// Steps with more than one result.
    pub steps_twice: usize,
    /// Micro-dollars of attempts whose end is known.
    pub settled: u64,
    /// Attempts of which nobody knows whether they were billed.
    pub open_attempts: usize,
}

impl Books {
    pub fn read(folder: &Path) -> Self {
        let text = fs::read_to_string(folder.join("journal.jsonl")).unwrap();
        let mut books = Self::default();
        let mut done: HashMap<String, usize> = HashMap::new();
        let mut results: HashMap<(String, u64), usize> = HashMap::new();
        // Of each attempt: what it cost, and whether that is all there is to know.
        let mut attempts: BTreeMap<(String, u64, u64), Option<(u64, bool)>> = BTreeMap::new();
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let line: Value = serde_json::from_str(line).unwrap();
            // A run that is carried out anew is another one for what must not be done twice.
            let pass = line["pass"].as_u64().unwrap_or(0);
            let run = format!("{}/{pass}", line["run"].as_str().unwrap_or_default());
            let attempt = || Some((run.clone(), line["step"].as_u64()?, line["attempt"].as_u64()?));
            let cost = line["cost"]["micro_usd"].as_u64();
            match line["kind"].as_str().unwrap() {
                "intent" => {
                    attempts.entry(attempt().unwrap()).or_insert(None);
                }
                "attempt" => {
                    let known = line["value"]["uncertain_micro_usd"].as_u64() == Some(0);
                    attempts.insert(attempt().unwrap(), Some((cost.unwrap(), known)));
                }
                "result" => {
                    *results.entry((run.clone(), line["step"].as_u64().unwrap())).or_default() += 1;
                    if let Some(key) = attempt()
                        && attempts.contains_key(&key)
                    {
                        books.paid_steps += 1;
                        attempts.insert(key, Some((cost.unwrap(), true)));
                    }
                }
                "done" => *done.entry(run).or_default() += 1,
                _ => {}
            }
        }
        books.done = done.len();
        books.done_twice = done.values().filter(|count| **count > 1).count();
        books.steps_twice = results.values().filter(|count| **count > 1).count();
        for end in attempts.values() {
            match end {
                Some((cost, known)) => {
                    books.settled += cost;
                    books.open_attempts += usize::from(!known);
                }
                None => books.open_attempts += 1,
            }
        }
        books
    }
}

//! Appends to a dataset on a fake Hub: the content of the file afterwards, with concurrent writers and with failures. With
//! TILTMETER_PYTHON set, also read back by the official client.

mod official;
mod troubles;

use std::time::Duration;

use futures::future::join_all;
use tiltmeter_dataset::{Appended, Dataset, HubOptions, Record, Uploads, check_repo_id, records_of, send};
use tiltmeter_model::{
    problem::Problem,
    secret::{ApiKey, Keys},
};
use tiltmeter_store::RunFolder;
use tiltmeter_test_support::hub::{FakeHub, Fault, TOKEN};

const REPO: &str = "someone/negotiations";
const FILE: &str = "game_logs.jsonl";

const OPTIONS: HubOptions = HubOptions {
    connect_timeout: Duration::from_secs(5),
    request_timeout: Duration::from_secs(10),
    transfer_timeout: Duration::from_secs(10),
    retries: 1,
    retry_delay: Duration::from_millis(2),
    commit_attempts: 5,
};

fn key(token: &str) -> ApiKey {
    Keys::from_pairs([("HF_TOKEN".to_string(), token.to_string())]).get("HF_TOKEN").unwrap()
}

fn open(hub: &FakeHub) -> Dataset {
    Dataset::open_with(REPO, key(TOKEN), Some(&hub.endpoint()), OPTIONS).unwrap()
}

fn record(id: &str) -> Record {
    let line = serde_json::json!({"run_id": id, "said": "Grüße, \"quoted\"\nand more", "score": 0.1}).to_string();
    Record { id: id.into(), line }
}

fn records(ids: &[&str]) -> Vec<Record> {
    ids.iter().map(|id| record(id)).collect()
}

fn lines(ids: &[&str]) -> String {
    ids.iter().map(|id| record(id).line + "\n").collect()
}

fn file(hub: &FakeHub) -> String {
    String::from_utf8(hub.file(REPO, FILE).unwrap_or_default()).unwrap()
}

fn asked(hub: &FakeHub, part: &str) -> usize {
    hub.asked().iter().filter(|request| request.line.contains(part)).count()
}

fn problem_of(result: Result<Appended, Problem>) -> Problem {
    let problem = result.unwrap_err();
    assert!(problem.hint.is_some() && problem.what.len() < 500, "{problem}");
    problem
}

#[tokio::test]
async fn the_first_append_makes_the_file_and_the_next_one_goes_on_in_it() {
    let hub = FakeHub::with(REPO).await;
    let dataset = open(&hub);
    dataset.check().await.unwrap();
    let first = dataset.append(FILE, &records(&["a", "b"])).await.unwrap();
    assert_eq!((first.added, first.already_there), (2, 0));
    let second = dataset.append(FILE, &records(&["b", "c"])).await.unwrap();
    assert_eq!((second.added, second.already_there), (1, 1));
    assert_eq!(file(&hub), lines(&["a", "b", "c"]));
    let commits = hub.commits(REPO);
    let made: Vec<_> =
        commits.iter().skip(1).map(|commit| (Some(commit.oid.clone()), commit.summary.as_str())).collect();
    let summaries = ["Append 2 records to game_logs.jsonl", "Append 1 record to game_logs.jsonl"];
    assert_eq!(made, [(first.commit, summaries[0]), (second.commit, summaries[1])]);
    assert!(commits[2].files.contains_key(".gitattributes"), "other files stay");
}

#[tokio::test]
async fn sending_twice_adds_nothing_and_commits_nothing() {
    let hub = FakeHub::with(REPO).await;
    let dataset = open(&hub);
    dataset.append(FILE, &records(&["a", "b"])).await.unwrap();
    let again = dataset.append(FILE, &records(&["a", "b"])).await.unwrap();
    assert_eq!(again, Appended { added: 0, already_there: 2, commit: None });
    assert_eq!(dataset.append(FILE, &[]).await.unwrap(), Appended::default());
    assert_eq!((hub.commits(REPO).len(), asked(&hub, "/commit/")), (2, 1));
}

#[tokio::test]
async fn what_others_wrote_stays_byte_for_byte() {
    let hub = FakeHub::with(REPO).await;
    let foreign = "\u{feff}# not JSON\r\n\n{\"run_id\": \"b\", \"by\": \"somebody\"}\n[1, 2]\n{\"run_id\":3}";
    hub.put(REPO, FILE, foreign.as_bytes());
    let appended = open(&hub).append(FILE, &records(&["a", "b"])).await.unwrap();
    assert_eq!((appended.added, appended.already_there), (1, 1));
    assert_eq!(file(&hub), format!("{foreign}\n{}", lines(&["a"])));

    let bytes: Vec<u8> = (0..=255).cycle().take(2_000_000).collect();
    hub.put(REPO, FILE, &bytes);
    open(&hub).append(FILE, &records(&["a"])).await.unwrap();
    let after = hub.file(REPO, FILE).unwrap();
    assert!(after.starts_with(&bytes) && after.ends_with(format!("\n{}", lines(&["a"])).as_bytes()));
}

#[tokio::test]
async fn another_writer_in_between_is_merged_not_overwritten() {
    let hub = FakeHub::with(REPO).await;
    let theirs = lines(&["theirs"]).into_bytes();
    hub.once("/commit/main", Fault::OvertakenBy { repo: REPO.into(), path: FILE.into(), bytes: theirs });
    hub.once("/commit/main", Fault::Status(409));
    let appended = open(&hub).append(FILE, &records(&["ours"])).await.unwrap();
    assert_eq!((appended.added, appended.already_there), (1, 0));
    assert_eq!(file(&hub), lines(&["theirs", "ours"]));

    // Many at once: each line arrives once, whatever the order.
    let hub = FakeHub::with(REPO).await;
    let patient = HubOptions { commit_attempts: 100, ..OPTIONS };
    let dataset = Dataset::open_with(REPO, key(TOKEN), Some(&hub.endpoint()), patient).unwrap();
    let batches: Vec<_> = (0..12).map(|n| records(&[&format!("{n}-a"), &format!("{n}-b"), "shared"])).collect();
    let all = join_all(batches.iter().map(|batch| dataset.append(FILE, batch))).await;
    let added: usize = all.into_iter().map(|appended| appended.unwrap().added).sum();
    let text = file(&hub);
    let mut seen: Vec<&str> = text.lines().collect();
    seen.sort();
    seen.dedup();
    assert_eq!((added, text.lines().count(), seen.len()), (25, 25, 25), "{text}");
}

#[tokio::test]
async fn others_who_commit_without_end_are_a_problem_and_not_a_loop() {
    let hub = FakeHub::with(REPO).await;
    hub.always("/commit/main", Fault::Status(412));
    let problem = problem_of(open(&hub).append(FILE, &records(&["a"])).await);
    assert!(problem.what.contains("5 attempts"), "{problem}");
    assert_eq!((asked(&hub, "/commit/"), hub.commits(REPO).len()), (5, 1));
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_found_and_not_made_twice() {
    // The repetition of the lost commit meets its own work.
    let hub = FakeHub::with(REPO).await;
    hub.once("/commit/main", Fault::After(Box::new(Fault::Reset)));
    let appended = open(&hub).append(FILE, &records(&["a", "b"])).await.unwrap();
    assert_eq!((appended.added, appended.already_there, hub.commits(REPO).len()), (0, 2, 2));
    assert_eq!(file(&hub), lines(&["a", "b"]));

    // Nothing is heard any more: a later sending finds and books what was made.
    let hub = FakeHub::with(REPO).await;
    let (home, folder) = run_folder();
    let sending = records(&["a", "b"]);
    hub.once("/commit/main", Fault::After(Box::new(Fault::Status(503))));
    hub.always("/commit/main", Fault::Reset);
    let problem = problem_of(send(&open(&hub), &folder, FILE, &sending).await);
    assert!(problem.what.contains("broke") && problem.to_string().contains("nothing is lost"), "{problem}");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "nothing was booked");
    hub.heal();
    let sent = send(&open(&hub), &folder, FILE, &sending).await.unwrap();
    assert_eq!((sent.added, sent.already_there, sent.commit), (0, 2, None));
    let head = hub.commits(REPO)[1].oid.clone();
    let uploads = Uploads::of(&folder).unwrap();
    assert_eq!(uploads.sent(&open(&hub), FILE, "b").unwrap().commit, head);
    assert_eq!((file(&hub), hub.commits(REPO).len()), (lines(&["a", "b"]), 2));
}

fn run_folder() -> (tempfile::TempDir, RunFolder) {
    let home = tempfile::tempdir().unwrap();
    let folder = RunFolder::at(home.path());
    (home, folder)
}

#[tokio::test]
async fn a_failed_upload_keeps_everything_pending_and_a_later_one_completes_it() {
    let hub = FakeHub::with(REPO).await;
    let dataset = open(&hub);
    let (_home, folder) = run_folder();
    std::fs::write(folder.game_logs(), lines(&["a", "b"])).unwrap();
    send(&dataset, &folder, FILE, &records_of(&folder).unwrap()).await.unwrap();
    let booked = std::fs::read_to_string(folder.uploads()).unwrap();

    std::fs::write(folder.game_logs(), lines(&["a", "b", "c", "d"])).unwrap();
    let all = records_of(&folder).unwrap();
    for fault in [Fault::Status(500), Fault::Status(503), Fault::Reset, Fault::Html(502), Fault::Status(401)] {
        hub.always("/commit/main", fault);
        problem_of(send(&dataset, &folder, FILE, &all).await);
        hub.heal();
        assert_eq!(std::fs::read_to_string(folder.uploads()).unwrap(), booked);
        assert_eq!(Uploads::of(&folder).unwrap().pending(&dataset, FILE, &all), records(&["c", "d"]));
        assert_eq!(file(&hub), lines(&["a", "b"]));
    }
    let sent = send(&dataset, &folder, FILE, &all).await.unwrap();
    assert_eq!((sent.added, sent.already_there), (2, 2));
    assert_eq!(file(&hub), lines(&["a", "b", "c", "d"]));
    let uploads = Uploads::of(&folder).unwrap();
    assert_eq!(uploads.pending(&dataset, FILE, &all), []);
    assert_eq!(uploads.sent(&dataset, FILE, "d").unwrap().commit, sent.commit.unwrap());
    assert_ne!(uploads.sent(&dataset, FILE, "a"), uploads.sent(&dataset, FILE, "d"));

    // Where nothing is pending, nothing is asked; another place has books of its own.
    let before = hub.asked().len();
    let idle = send(&dataset, &folder, FILE, &all).await.unwrap();
    assert_eq!((idle, hub.asked().len()), (Appended { added: 0, already_there: 4, commit: None }, before));
    assert_eq!(send(&dataset, &folder, "other.jsonl", &all).await.unwrap().added, 4);
    assert_eq!(Uploads::of(&folder).unwrap().pending(&dataset, FILE, &all), []);
}

#[tokio::test]
async fn books_that_cannot_be_kept_or_read_cost_no_record() {
    let hub = FakeHub::with(REPO).await;
    let dataset = open(&hub);
    let all = records(&["a", "b"]);
    #[cfg(target_os = "linux")]
    {
        // A place where nothing can be made.
        let problem = problem_of(send(&dataset, &RunFolder::at("/proc/none"), FILE, &all).await);
        assert!(problem.what.contains("are in the dataset") && problem.place.is_some(), "{problem}");
        assert_eq!(file(&hub), lines(&["a", "b"]));
    }
    let (_home, folder) = run_folder();
    std::fs::write(folder.uploads(), "{\"places\": [{}]}").unwrap();
    let problem = problem_of(send(&dataset, &folder, FILE, &all).await);
    assert!(problem.what.contains("damaged") && problem.hint.as_ref().unwrap().contains("delete it"), "{problem}");
    std::fs::remove_file(folder.uploads()).unwrap();
    send(&dataset, &folder, FILE, &all).await.unwrap();
    assert_eq!(file(&hub), lines(&["a", "b"]));
    assert_eq!(Uploads::of(&folder).unwrap().pending(&dataset, FILE, &all), []);
}

#[test]
fn the_records_of_a_run_folder_are_its_lines() {
    let (_home, folder) = run_folder();
    assert_eq!(records_of(&folder).unwrap(), []);
    std::fs::write(folder.game_logs(), format!("{}\n{}", lines(&["a"]), record("b").line)).unwrap();
    assert_eq!(records_of(&folder).unwrap(), records(&["a", "b"]));
    std::fs::write(folder.game_logs(), format!("{}{{\"run_id\": \"b\"", lines(&["a"]))).unwrap();
    let problem = records_of(&folder).unwrap_err();
    assert!(problem.place.unwrap().ends_with("game_logs.jsonl:2"));
}

#[test]
fn a_name_is_a_name_and_not_the_placeholder_of_an_example() {
    for good in ["someone/negotiations", "a/b", "org-1/data_set.v2", "user/negotiation-logs", "some-org/dataset"] {
        check_repo_id(good).unwrap();
    }
    for (bad, word) in [
        ("your-username/your-dataset", "placeholder"),
        ("someone/your_dataset_name", "placeholder"),
        ("YOUR_USERNAME/logs", "placeholder"),
        ("<user>/<dataset>", "placeholder"),
        ("{name}/x", "placeholder"),
        ("username/dataset-name", "placeholder"),
        ("user/dataset", "placeholder"),
        ("https://huggingface.co/datasets/a/b", "is a URL"),
        ("datasets/a/b", "is a URL"),
        ("", "not a dataset id"),
        ("logs", "not a dataset id"),
        ("a/b/c", "not a dataset id"),
        ("a/", "not a dataset id"),
        ("a/b--c", "not a dataset id"),
        ("a/../b", "not a dataset id"),
        ("a/..", "not a dataset id"),
        ("a/b.git", "not a dataset id"),
        ("a b/c", "not a dataset id"),
        ("-a/b", "not a dataset id"),
        ("a/ü", "not a dataset id"),
        ("a/b?x=1", "not a dataset id"),
    ] {
        let problem = check_repo_id(bad).unwrap_err();
        assert!(problem.what.contains(word) && problem.hint.is_some(), "{bad}: {problem}");
        assert!(Dataset::open(bad, key(TOKEN), Some("http://127.0.0.1:1")).is_err());
    }
}

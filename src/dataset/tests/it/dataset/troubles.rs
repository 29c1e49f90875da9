//! Appends to a faulty Hub: each fault is a clear `Problem`, the dataset stays unchanged, and the token appears nowhere.

use std::time::{Duration, Instant};

use tiltmeter_dataset::{Dataset, HubOptions, send, token};
use tiltmeter_model::secret::{Keys, REDACTED};
use tiltmeter_test_support::hub::{FakeHub, Fault, READ_TOKEN, TOKEN};

use super::{FILE, OPTIONS, REPO, asked, file, key, lines, open, problem_of, record, records, run_folder};
use tiltmeter_test_support::keys::{encodings, leaked};

/// Every request of an append, in its order.
const REQUESTS: [&str; 6] =
    ["GET /api/datasets/", "/paths-info/", "HEAD /", "GET /datasets/", "/preupload/", "/commit/main"];

/// Compiles only while a dataset, which holds a token, cannot be shown: with the trait, two impls would fit.
const _: fn() = || {
    trait Hidden<Way> {
        fn hidden() {}
    }
    struct ByDebug;
    impl<T> Hidden<()> for T {}
    impl<T: std::fmt::Debug> Hidden<ByDebug> for T {}
    <Dataset as Hidden<_>>::hidden();
};

#[tokio::test]
async fn each_refusal_is_a_clear_problem_and_changes_nothing() {
    let hub = FakeHub::with(REPO).await;
    hub.put(REPO, FILE, lines(&["theirs"]).as_bytes());
    hub.add_model("someone/model");
    let at = |repo: &str, token: &str| Dataset::open_with(repo, key(token), Some(&hub.endpoint()), OPTIONS).unwrap();
    for (dataset, check, append, hint) in [
        (at(REPO, "hf_unknown0123456789"), "not accept the token", "not accept the token", "settings/tokens"),
        (at(REPO, READ_TOKEN), "is read-only", "cannot write", "write permission"),
        (at("someone/nothing", TOKEN), "no dataset `someone/nothing`", "no dataset `someone/nothing`", "new-dataset"),
        (at("someone/model", TOKEN), "is a model, not a dataset", "no dataset `someone/model`", "spelling"),
    ] {
        let problem = dataset.check().await.unwrap_err();
        assert!(problem.what.contains(check) && problem.hint.is_some(), "{problem}");
        let problem = problem_of(dataset.append(FILE, &records(&["a"])).await);
        assert!(problem.what.contains(append) && problem.hint.as_ref().unwrap().contains(hint), "{problem}");
    }
    for (status, word) in
        [(400, "status 400"), (429, "too many"), (500, "status 500"), (503, "status 503"), (501, "501")]
    {
        for request in REQUESTS {
            hub.always(request, Fault::Status(status));
            let problem = problem_of(open(&hub).append(FILE, &records(&["a"])).await);
            assert!(problem.what.contains(word), "{request}: {problem}");
            hub.heal();
        }
    }
    assert_eq!((file(&hub), hub.commits(REPO).len()), (lines(&["theirs"]), 2));
}

#[tokio::test]
async fn no_network_and_no_answer_are_problems_that_end_in_time() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dataset = Dataset::open_with(REPO, key(TOKEN), Some(&format!("http://{nobody}")), OPTIONS).unwrap();
    let problem = dataset.check().await.unwrap_err();
    assert!(problem.what.contains("cannot be reached") && problem.what.contains(&nobody.to_string()), "{problem}");
    assert!(problem_of(dataset.append(FILE, &records(&["a"])).await).what.contains("cannot be reached"));

    let hub = FakeHub::with(REPO).await;
    hub.put(REPO, FILE, b"{}\n");
    let (request_timeout, transfer_timeout) = (Duration::from_millis(150), Duration::from_millis(200));
    let hasty = HubOptions { request_timeout, transfer_timeout, ..OPTIONS };
    let dataset = Dataset::open_with(REPO, key(TOKEN), Some(&hub.endpoint()), hasty).unwrap();
    for request in REQUESTS {
        hub.always(request, Fault::Silence);
        let begin = Instant::now();
        let problem = problem_of(dataset.append(FILE, &records(&["a"])).await);
        assert!(problem.what.contains("timed out"), "{request}: {problem}");
        assert!(begin.elapsed() < Duration::from_secs(3), "{request} took {:?}", begin.elapsed());
        hub.heal();
    }
    hub.always("whoami", Fault::Silence);
    let problem = dataset.check().await.unwrap_err();
    assert!(problem.what.contains("timed out"), "{problem}");
    assert_eq!(hub.commits(REPO).len(), 2);
}

#[tokio::test]
async fn a_file_that_did_not_come_whole_is_never_written_back() {
    let hub = FakeHub::with(REPO).await;
    let theirs = lines(&["x", "y", "z"]);
    hub.put(REPO, FILE, theirs.as_bytes());
    let half = || Fault::Half;
    let not_there = || Fault::Saying(404, "Entry not found".into());
    for (request, fault, word) in [
        ("GET /datasets/", half(), "were received"),
        ("GET /datasets/", Fault::Reset, "broke"),
        ("GET /datasets/", not_there(), "reports them missing"),
        ("HEAD /", not_there(), "reports them missing"),
        ("/paths-info/", not_there(), "reports them missing"),
        ("/paths-info/", half(), "malformed reply"),
        ("GET /api/datasets/", half(), "malformed reply"),
        ("GET /api/datasets/", Fault::Html(200), "malformed reply"),
        ("/preupload/", half(), "malformed reply"),
    ] {
        hub.always(request, fault.clone());
        let problem = problem_of(open(&hub).append(FILE, &records(&["a"])).await);
        assert!(problem.what.contains(word), "{request} {fault:?}: {problem}");
        hub.heal();
        assert_eq!((file(&hub), asked(&hub, "/commit/")), (theirs.clone(), 0), "{request} {fault:?}");
    }
    // An answer that cannot be read came from a commit all the same.
    hub.once("/commit/main", Fault::After(Box::new(Fault::Html(200))));
    problem_of(open(&hub).append(FILE, &records(&["a"])).await);
    assert_eq!(open(&hub).append(FILE, &records(&["a"])).await.unwrap().already_there, 1);
}

/// The Hub keeps large files outside of git. They are read through its redirect; hf-hub writes them by Xet, which the fake Hub does
/// not speak, so that here the commit is refused, and refused cleanly.
#[tokio::test]
async fn a_file_in_lfs_is_read_and_a_hub_without_xet_refuses_it_cleanly() {
    let hub = FakeHub::with(REPO).await;
    hub.lfs_from(100);
    let theirs = lines(&["a", "b"]);
    hub.put(REPO, FILE, theirs.as_bytes());
    let appended = open(&hub).append(FILE, &records(&["a", "b"])).await.unwrap();
    assert_eq!((appended.added, appended.already_there, asked(&hub, "GET /lfs/")), (0, 2, 1));
    let at_the_store = hub.asked().into_iter().find(|request| request.line.contains("/lfs/")).unwrap();
    assert!(at_the_store.line.starts_with("HEAD"), "{}", at_the_store.line);
    let problem = problem_of(open(&hub).append(FILE, &records(&["c"])).await);
    assert!(problem.what.contains("status 400") && problem.what.contains("larger than"), "{problem}");
    assert_eq!(file(&hub), theirs);
}

#[test]
fn invalid_ids_tokens_and_addresses_are_refused_before_anything_is_sent() {
    let nowhere = Some("http://127.0.0.1:1");
    for (endpoint, word) in [
        ("huggingface.co", "not a URL"),
        ("ftp://hub.example", "not an http"),
        ("http://hub.example", "unencrypted"),
        ("https://someone:hf_secret@hub.example", "has a user, a query or a fragment"),
        ("https://hub.example/?token=hf_secret", "has a user, a query or a fragment"),
    ] {
        let problem = Dataset::open(REPO, key(TOKEN), Some(endpoint)).err().unwrap();
        assert!(problem.what.contains(word) && !problem.to_string().contains("hf_secret"), "{endpoint}: {problem}");
    }
    let problem = Dataset::open(REPO, key("hf_a b"), nowhere).err().unwrap();
    assert!(problem.what.contains("character") && !problem.to_string().contains("hf_a"), "{problem}");
    assert!(Dataset::open(REPO, key(TOKEN), nowhere).is_ok());

    let keys = |value: &str| Keys::from_pairs([("HF_TOKEN".to_string(), value.to_string())]);
    assert!(token(&keys(TOKEN)).is_ok());
    for (value, word) in [("", "is not set"), ("hf_xxx", "placeholder"), ("hf_\u{201c}x", "character")] {
        let problem = token(&keys(value)).err().unwrap();
        assert!(problem.what.contains(word) && problem.hint.is_some(), "{value}: {problem}");
    }
}

#[tokio::test]
async fn a_record_that_would_spoil_the_file_is_refused_unsent() {
    let hub = FakeHub::with(REPO).await;
    let dataset = open(&hub);
    for line in ["{\"run_id\": \"a\"", "{\"run_id\":\n\"a\"}", "{\"run_id\": \"b\"}", "[]", ""] {
        let spoilt = tiltmeter_dataset::Record { id: "a".into(), line: line.into() };
        assert!(dataset.append(FILE, &[record("c"), spoilt]).await.is_err(), "{line}");
    }
    assert!(dataset.append("../up.jsonl", &records(&["a"])).await.is_err());
    assert_eq!(hub.asked().len(), 0);
}

#[tokio::test]
async fn a_hub_that_throws_the_token_back_cannot_get_it_into_a_problem_or_a_file() {
    let hub = FakeHub::with(REPO).await;
    hub.put(REPO, FILE, lines(&["theirs"]).as_bytes());
    let dataset = open(&hub);
    let (home, folder) = run_folder();
    let mut redacted = 0;
    for form in encodings(TOKEN) {
        for (request, status) in
            [("GET /api/datasets/", 418), ("/paths-info/", 403), ("/commit/main", 400), ("/commit/main", 429)]
        {
            // Cut off in the middle of the token.
            for before in [0, 270, 285, 295] {
                hub.always(request, Fault::Saying(status, format!("{}bad token {form}.", "x".repeat(before))));
                let problem = problem_of(send(&dataset, &folder, FILE, &records(&["a"])).await);
                let shown = format!("{problem} {problem:?}");
                assert!(leaked(&shown, TOKEN).is_none() && !shown.contains("Canary"), "{request} {form}: {shown}");
                redacted += usize::from(shown.contains(REDACTED));
                hub.heal();
            }
        }
        hub.always("whoami", Fault::Saying(500, form.clone()));
        let problem = dataset.check().await.unwrap_err();
        assert!(leaked(&problem.to_string(), TOKEN).is_none() && problem.what.contains(REDACTED), "{form}: {problem}");
        hub.heal();
    }
    assert!(redacted > encodings(TOKEN).len() * 4, "{redacted}");
    send(&dataset, &folder, FILE, &records(&["a"])).await.unwrap();
    let books = std::fs::read_to_string(folder.uploads()).unwrap();
    assert_eq!((leaked(&books, TOKEN), std::fs::read_dir(home.path()).unwrap().count()), (None, 1));
    for request in hub.asked() {
        let in_header = |(name, value): &&(String, String)| name != "authorization" && leaked(value, TOKEN).is_some();
        assert!(request.headers.iter().find(in_header).is_none(), "{request:?}");
        assert_eq!(
            (leaked(&request.line, TOKEN), leaked(&String::from_utf8_lossy(&request.body), TOKEN)),
            (None, None)
        );
    }
    assert_eq!((leaked(&file(&hub), TOKEN), leaked(&format!("{:?}", hub.commits(REPO)), TOKEN)), (None, None));
}

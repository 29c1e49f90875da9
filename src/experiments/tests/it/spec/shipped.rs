//! The experiments in the repository.

use super::*;

#[test]
fn the_shipped_experiments_are_valid_but_for_files_that_are_not_shipped() {
    tiltmeter_test_support::paths::enter_repo();
    let folder = tiltmeter_test_support::paths::repo().join("experiments");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "yaml") {
            continue;
        }
        seen += 1;
        // The axis of a published model belongs to its weights; the file says how to make it.
        for problem in config::load(&path, &[]).err().unwrap_or_default() {
            assert!(problem.what.ends_with("does not exist") && problem.what.starts_with("`axis`"), "{problem}");
        }
    }
    assert!(seen >= 2, "{seen} experiments");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_readers_panic(text in "[\\x00-\\x7fäß😀\u{feff}]{0,120}") {
        let _ = config::read(&text, Path::new("x.yaml"), &[]);
        let _ = config::read(&text, Path::new("x.json"), &[]);
        let _ = config::read(SMALLEST, Path::new("x.yaml"), &[(text.clone(), text)]);
    }

    #[test]
    fn a_torn_or_scratched_experiment_is_answered(at in 0..SMALLEST.len(), scratch in "[ -~\\n\\t]{0,3}") {
        let text = format!("{}{scratch}", &SMALLEST[..at]);
        prop_assert!(config::read(&text, Path::new("nowhere/x.yaml"), &[]).is_err(), "its files do not exist");
        let text = format!("{}{scratch}{}", &SMALLEST[..at], &SMALLEST[at..]);
        for problem in config::read(&text, Path::new("nowhere/x.yaml"), &[]).unwrap_err() {
            prop_assert!(problem.place.is_some() && problem.hint.is_some(), "{problem}");
        }
    }
}

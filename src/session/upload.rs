//! Sends records of finished runs to a Hugging Face dataset.

use std::path::{Path, PathBuf};

use super::find_folder;
use super::manifest::DATASET_NOTE;
use tiltmeter_dataset::{Appended, Dataset, Uploads, records_of, send, token};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::secret::{Keys, read_env_file};
use tiltmeter_store::{Manifest, RunFolder};

/// The file of the dataset.
const FILE: &str = "game_logs.jsonl";
const REPO_VARIABLE: &str = "HF_REPO_ID";

/// Checks name, token and address; sends nothing.
pub fn open(repo_id: &str, keys: &Keys) -> Result<Dataset, Problem> {
    let place = |problem: Problem| match problem.place {
        Some(_) => problem,
        None => problem.at("hf_repo_id"),
    };
    token(keys).and_then(|token| Dataset::open(repo_id, token, None)).map_err(place)
}

/// An upload and its result.
pub struct Uploaded {
    pub folder: PathBuf,
    pub repo_id: String,
    pub result: Result<Appended, Problem>,
}

/// Sends the records of this folder that the dataset lacks. A failed upload changes nothing.
pub async fn upload(dataset: &Dataset, folder: &RunFolder) -> Uploaded {
    let result = match records_of(folder) {
        Ok(records) => send(dataset, folder, FILE, &records).await,
        Err(problem) => Err(problem),
    };
    Uploaded { folder: folder.dir().to_owned(), repo_id: dataset.repo_id().to_owned(), result }
}

/// Sends the pending records of these folders, or of every run folder in the default place if `dirs` is empty. The dataset is `repo`,
/// else HF_REPO_ID, else the one in the folder's manifest.
pub async fn upload_pending(dirs: &[PathBuf], repo: Option<&str>) -> Result<Vec<Uploaded>, Problem> {
    let env_file = Path::new(super::ENV_FILE);
    let keys = Keys::from_environment(Some(env_file))?;
    let in_file = read_env_file(env_file)?.into_iter().find(|(name, _)| name == REPO_VARIABLE).map(|(_, value)| value);
    let set = std::env::var(REPO_VARIABLE).ok().or(in_file).filter(|value| !value.trim().is_empty());
    let requested = repo.map(str::to_owned).or(set);
    let folders = match dirs {
        [] => begun(Path::new("data/runs")),
        dirs => dirs.iter().map(|dir| find_folder(dir)).collect::<Result<_, _>>()?,
    };
    let mut uploaded = Vec::new();
    for folder in folders {
        let records = records_of(&folder)?;
        if records.is_empty() && dirs.is_empty() {
            continue;
        }
        let noted = || Manifest::read(&folder.manifest()).ok()?.notes.get(DATASET_NOTE)?.as_str().map(str::to_owned);
        let Some(repo_id) = requested.clone().or_else(noted) else {
            if dirs.is_empty() {
                // This experiment has no dataset.
                continue;
            }
            return Err(Problem::new("no dataset is given for these records")
                .at(folder.dir().display().to_string())
                .hint(format!("give --repo name/dataset, or set {REPO_VARIABLE} in the environment or .env")));
        };
        let dataset = open(&repo_id, &keys)?;
        if Uploads::of(&folder)?.pending(&dataset, FILE, &records).is_empty() && dirs.is_empty() {
            continue;
        }
        uploaded.push(upload(&dataset, &folder).await);
    }
    Ok(uploaded)
}

/// Every folder below that holds a journal, two levels deep, by name.
fn begun(place: &Path) -> Vec<RunFolder> {
    let entries = |dir: &Path| {
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let folders = entries(place).into_iter().flat_map(|experiment| entries(&experiment)).map(RunFolder::at);
    folders.filter(|folder| folder.holds_journal().unwrap_or(false)).collect()
}

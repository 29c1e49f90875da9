//! `Checkpoint`: the files of one model, from a folder or the Hugging Face hub, and the fingerprint of its weights.
//!
//! Fingerprint: `sha256:` + the SHA-256 of model.safetensors; of a sharded checkpoint, the SHA-256 over the lower-case hex digests
//! of its shards, joined in name order.

mod download;
mod special_tokens;

pub use special_tokens::SpecialTokens;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    path::{Component, Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::Value;
use sha2::{Digest, Sha256};

use tiltmeter_model::input;
use tiltmeter_model::problem::Problem;

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";
const ADDED_TOKENS: &str = "added_tokens.json";
const INDEX: &str = "model.safetensors.index.json";
const WEIGHTS: &str = "model.safetensors";
/// What older checkpoints hold instead of safetensors.
const PICKLED: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

/// The files of one model. Opening reads the small ones and checks that the weights are there; nothing is loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// As the user gave it: a folder or `org/name[@revision]`.
    pub name: String,
    /// The folder the files lie in; of a hub model, inside the hub's cache.
    pub folder: PathBuf,
    /// Commit of a hub model.
    pub revision: Option<String>,
    /// Text of config.json.
    pub config: String,
    /// Text of generation_config.json.
    pub generation_config: Option<String>,
    /// Path of tokenizer.json.
    pub tokenizer: PathBuf,
    /// Source of the chat template: chat_template.jinja, else the one in tokenizer_config.json.
    pub chat_template: Option<String>,
    pub special_tokens: SpecialTokens,
    /// The text of every token that any file names as one to be taken whole.
    pub added_tokens: BTreeSet<String>,
    /// The safetensors files in shard order, which is name order.
    pub weights: Vec<PathBuf>,
}

/// Identity of a checkpoint's weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// `sha256:<hex>`.
    pub value: String,
    /// File name and lower-case hex SHA-256 of each weight file, in shard order.
    pub files: Vec<(String, String)>,
}

impl Checkpoint {
    /// Opens a folder, or a hub id `org/name[@revision]` (downloaded unless it is cached; `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT` and
    /// `HF_HUB_OFFLINE` are honoured). A folder of that name comes first.
    ///
    /// # Errors
    /// Neither a folder nor a hub id; a folder that is no checkpoint; missing shards; weights in pickled form only; a hub that
    /// cannot be reached, does not know the model, or keeps it behind a login.
    pub fn open(name: &str) -> Result<Self, Problem> {
        let path = Path::new(name);
        if path.is_dir() {
            return Self::from_folder(name, path, None);
        }
        if path.is_file() {
            return Err(Problem::new(format!("`{name}` is a file, but a model is a folder"))
                .hint("give the folder that holds config.json"));
        }
        let Some(id) = download::HubId::parse(name) else {
            return Err(Problem::new(format!("there is no folder `{name}`, and it is not a hub id either"))
                .hint("give a folder that holds config.json, or a hub id such as allenai/Olmo-3-7B-Instruct"));
        };
        let fetched = download::fetch(&id, name)?;
        Self::from_folder(name, &fetched.folder, Some(fetched.revision))
    }

    fn from_folder(name: &str, folder: &Path, revision: Option<String>) -> Result<Self, Problem> {
        let config = read_optional(folder, CONFIG)?.ok_or_else(|| {
            Problem::new(format!("`{name}` is not a checkpoint: it has no config.json"))
                .at(folder.display().to_string())
                .hint("give the folder that holds config.json, tokenizer.json and model.safetensors")
        })?;
        let tokenizer = folder.join(TOKENIZER);
        if !tokenizer.is_file() {
            return Err(Problem::new(format!("`{name}` has no tokenizer.json"))
                .at(folder.display().to_string())
                .hint("save its fast tokenizer: AutoTokenizer.from_pretrained(…).save_pretrained(folder)"));
        }
        let tokenizer_config = read_json(folder, TOKENIZER_CONFIG)?.unwrap_or(Value::Null);
        let special_map = read_json(folder, SPECIAL_TOKENS)?.unwrap_or(Value::Null);
        let added_tokens = read_json(folder, ADDED_TOKENS)?.unwrap_or(Value::Null);
        let chat_template = match read_optional(folder, TEMPLATE)? {
            Some(source) => Some(source),
            None => template_of(&tokenizer_config, folder)?,
        };
        Ok(Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            revision,
            config,
            generation_config: read_optional(folder, GENERATION)?,
            tokenizer,
            chat_template,
            special_tokens: special_tokens::named(&special_map, &tokenizer_config),
            added_tokens: special_tokens::all(&special_map, &tokenizer_config, &added_tokens),
            weights: weight_files(name, folder)?,
        })
    }

    /// Hashes every weight file, several at a time; a 7B checkpoint takes as long as reading its 14 GB does.
    ///
    /// # Errors
    /// A file that cannot be read to its end.
    pub fn fingerprint(&self) -> Result<Fingerprint, Problem> {
        let digests = hash_files(&self.weights)?;
        let value = match digests.as_slice() {
            [one] => format!("sha256:{one}"),
            many => format!("sha256:{}", hex(&Sha256::digest(many.concat()))),
        };
        let names = self.weights.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        Ok(Fingerprint { value, files: names.zip(digests).collect() })
    }
}

/// The text of a file, `None` where there is none.
fn read_optional(folder: &Path, file: &str) -> Result<Option<String>, Problem> {
    let path = folder.join(file);
    match input::read_text(&path, input::MAX_TEXT) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(&path, &error)),
    }
}

fn read_json(folder: &Path, file: &str) -> Result<Option<Value>, Problem> {
    let parse = |text: String| {
        serde_json::from_str(&text).map_err(|error| {
            Problem::new(format!("{file} is not valid JSON: {error}"))
                .at(folder.join(file).display().to_string())
                .hint("the checkpoint is damaged or incomplete: fetch this file again")
        })
    };
    read_optional(folder, file)?.map(parse).transpose()
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    Problem::new(format!("cannot read the file: {error}"))
        .at(path.display().to_string())
        .hint("check that it exists, is complete, and may be read")
}

/// `chat_template` of tokenizer_config.json: one template, or a list of named ones, of which `default` is the chat's.
fn template_of(tokenizer_config: &Value, folder: &Path) -> Result<Option<String>, Problem> {
    let named = match tokenizer_config.get("chat_template") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(source)) => return Ok(Some(source.clone())),
        Some(Value::Array(named)) => named.as_slice(),
        Some(_) => &[],
    };
    let name_of = |entry: &Value| entry.get("name").and_then(Value::as_str).unwrap_or("?").to_owned();
    let default = named.iter().find(|entry| name_of(entry) == "default");
    match default.and_then(|entry| entry.get("template")).and_then(Value::as_str) {
        Some(source) => Ok(Some(source.to_owned())),
        None => {
            let names: Vec<String> = named.iter().map(name_of).collect();
            Err(Problem::new(format!("no chat template is called `default` among: {}", names.join(", ")))
                .at(folder.join(TOKENIZER_CONFIG).display().to_string())
                .hint("put the template to use into a file chat_template.jinja beside the weights"))
        }
    }
}

fn weight_files(name: &str, folder: &Path) -> Result<Vec<PathBuf>, Problem> {
    // As transformers does: a whole file comes before shards, which may be left from an older save.
    let index = if folder.join(WEIGHTS).is_file() { None } else { read_optional(folder, INDEX)? };
    let shards = match index {
        Some(text) => shard_names(&text).map_err(|problem| problem.at(folder.join(INDEX).display().to_string()))?,
        None => BTreeSet::from([WEIGHTS.to_owned()]),
    };
    let missing: Vec<&str> = shards.iter().map(String::as_str).filter(|shard| !folder.join(shard).is_file()).collect();
    let Some(first) = missing.first() else {
        return Ok(shards.iter().map(|shard| folder.join(shard)).collect());
    };
    let problem = if PICKLED.iter().any(|file| folder.join(file).is_file()) {
        only_pickled(name)
    } else if shards.len() == 1 && *first == WEIGHTS {
        let problem =
            Problem::new(format!("`{name}` has no weights: neither model.safetensors nor an index of shards"));
        match other_weights(folder) {
            Some(other) => problem.hint(format!(
                "{other} is not read: load it with transformers and save_pretrained(folder), which writes model.safetensors"
            )),
            None => problem.hint("download the whole repository, not only its small files"),
        }
    } else {
        Problem::new(format!("{} of {} weight files are missing, the first is {first}", missing.len(), shards.len()))
            .hint("the download is incomplete: fetch the missing files again")
    };
    Err(problem.at(folder.display().to_string()))
}

/// A file of weights in another layout or under another name: Meta's and Mistral's own, a variant, GGUF, TensorFlow, Flax.
fn other_weights(folder: &Path) -> Option<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    let kinds = [".safetensors", ".gguf", ".pth", ".pt", ".bin", ".h5", ".msgpack", ".ckpt"];
    names.into_iter().find(|name| kinds.iter().any(|kind| name.ends_with(kind)) && name != "training_args.bin")
}

fn only_pickled(name: &str) -> Problem {
    Problem::new(format!("the weights of `{name}` are pickled (.bin) files only"))
        .hint("convert them: load the model with transformers and save_pretrained(folder, safe_serialization=True)")
}

/// The distinct files of an index's weight_map.
fn shard_names(index: &str) -> Result<BTreeSet<String>, Problem> {
    let damaged = |what: String| Problem::new(what).hint("the index is damaged: fetch it again");
    let json: Value = serde_json::from_str(index).map_err(|error| damaged(format!("not valid JSON: {error}")))?;
    let map = json.get("weight_map").and_then(Value::as_object).filter(|map| !map.is_empty());
    let map = map.ok_or_else(|| damaged("the index has no `weight_map`".to_owned()))?;
    let plain = |file: &Value| {
        // An index may only name files beside it: anything else would read outside the checkpoint.
        let name = file.as_str().filter(|name| {
            let mut parts = Path::new(name).components();
            matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) && name.ends_with(".safetensors")
        });
        name.map(str::to_owned)
            .ok_or_else(|| damaged(format!("`weight_map` names {file}, no safetensors file beside it")))
    };
    map.values().map(plain).collect()
}

/// Hex SHA-256 of each file, in order; the files are shared out over the cores.
fn hash_files(paths: &[PathBuf]) -> Result<Vec<String>, Problem> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(paths.len());
    let next = AtomicUsize::new(0);
    let results = Mutex::new(vec![None; paths.len()]);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(path) = paths.get(i) else { break };
                    let digest = hash_file(path).map_err(|error| unreadable(path, &error));
                    results.lock().unwrap_or_else(|poisoned| poisoned.into_inner())[i] = Some(digest);
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    results.into_iter().flatten().collect()
}

fn hash_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hex(&hasher.finalize())),
            read => hasher.update(&chunk[..read]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

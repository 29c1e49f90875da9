//! "Did you mean": the nearest of some names by edit distance, and the nearest existing file.

use std::path::Path;

use strsim::osa_distance;

/// The nearest candidate whose edit distance is at most a third of the name's length.
pub(super) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let limit = (name.chars().count() / 3).max(1);
    let scored = candidates.into_iter().map(|candidate| (osa_distance(&name, &candidate.to_lowercase()), candidate));
    scored
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The entry of `path`'s folder whose name is nearest to it.
pub(super) fn nearest_file(path: &Path) -> Option<String> {
    let wanted = path.file_name()?.to_str()?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .take(10_000)
        .filter(|entry| !entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    let same_stem = || {
        let stem = wanted.split('.').next().filter(|stem| !stem.is_empty())?;
        names.iter().map(String::as_str).find(|name| name.split('.').next() == Some(stem))
    };
    let found = nearest(wanted, names.iter().map(String::as_str)).or_else(same_stem)?;
    Some(path.with_file_name(found).display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_found_and_a_stranger_is_not() {
        let keys = ["temperature", "top_p", "samples"];
        assert_eq!(nearest("temprature", keys), Some("temperature"));
        assert_eq!(nearest("tpo_p", keys), Some("top_p"));
        assert_eq!(nearest("Samples", keys), Some("samples"));
        assert_eq!(nearest("colour", keys), None);
    }
}

//! What the machine says: CPU time and peak memory of a process (Linux), and how often its disk makes an append last.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

/// CPU time of this process in seconds, all threads, user and system.
pub fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name may hold anything, but it ends with the last bracket. Fields 14 and 15, in ticks of 10 ms.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / 100.0)
}

/// Largest resident set so far, in MiB.
pub fn peak_mib() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<f64>().ok()? / 1024.0)
}

/// How busy the machine is with others: the mean number of tasks that want a core, over the last minute.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().filter(|load| !load.is_empty()).unwrap_or("unknown").to_owned()
}

/// Appends of this size that are made durable one after the other, per second, in this folder.
pub fn durable_appends_per_second(folder: &Path, bytes: usize) -> f64 {
    let path = folder.join("disk");
    let mut file = File::create(&path).unwrap();
    let (piece, began) = (vec![b'x'; bytes], Instant::now());
    let mut appends = 0;
    while began.elapsed() < Duration::from_secs(1) {
        file.write_all(&piece).unwrap();
        file.sync_data().unwrap();
        appends += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    fs::remove_file(path).unwrap();
    f64::from(appends) / seconds
}

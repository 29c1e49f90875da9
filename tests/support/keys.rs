//! Finds an API key in text in the encodings a server may return it in.

/// Written once more, from the standard, so that a mistake in the one does not hide in the other.
pub fn base64_unpadded(bytes: &[u8], last: &[u8; 2]) -> String {
    let alphabet: Vec<u8> = (b'A'..=b'Z').chain(b'a'..=b'z').chain(b'0'..=b'9').chain(*last).collect();
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for i in 0..=three.len() {
            text.push(alphabet[(word >> (18 - 6 * i) & 63) as usize] as char);
        }
    }
    text
}

pub fn encodings(key: &str) -> Vec<String> {
    let escaped = |upper: bool| {
        let byte = |b: u8| if upper { format!("%{b:02X}") } else { format!("%{b:02x}") };
        key.bytes()
            .map(|b| if b.is_ascii_alphanumeric() || b"-._~".contains(&b) { (b as char).to_string() } else { byte(b) })
            .collect()
    };
    let json = serde_json::to_string(key).unwrap();
    let mut encodings = vec![key.to_string(), json[1..json.len() - 1].to_string(), escaped(true), escaped(false)];
    for before in ["", ":", "ab", "Bearer ", "user:"] {
        for last in [b"+/", b"-_"] {
            encodings.push(base64_unpadded(format!("{before}{key}{before}").as_bytes(), last));
        }
    }
    encodings
}

/// The middle of each form, as it would show if only its ends were taken out.
pub fn leaked(text: &str, key: &str) -> Option<String> {
    encodings(key).into_iter().find(|form| text.contains(form.as_str()) || text.contains(&form[12..form.len() - 12]))
}

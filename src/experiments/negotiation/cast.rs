//! Owns the names in a game: of agents and of items. They say nothing of who is strong or what an item is worth, and no name is the
//! beginning of another.
//! Must not know: models, rules, values.

/// Most items of a game: all allocations of them are looked at.
pub const MOST_ITEMS: usize = 16;

const AGENTS: [&str; 6] = ["Alpha", "Beta", "Gamma", "Delta", "Epsilon", "Zeta"];

const ITEMS: [&str; MOST_ITEMS] = [
    "Anchor", "Basket", "Candle", "Drum", "Easel", "Flute", "Globe", "Harp", "Inkwell", "Jar", "Kite", "Lantern",
    "Mirror", "Needle", "Oar", "Prism",
];

/// What an agent is called, by its place in the order of speaking.
pub fn agent(index: usize) -> String {
    AGENTS.get(index).map_or_else(|| format!("Agent {}", index + 1), |name| (*name).to_owned())
}

pub fn item(index: usize) -> String {
    ITEMS.get(index).map_or_else(|| format!("Item {}", index + 1), |name| (*name).to_owned())
}

/// Items by name, as in "Anchor, Drum"; "nothing" for none.
pub fn items(indices: &[usize]) -> String {
    match indices {
        [] => "nothing".to_owned(),
        indices => indices.iter().map(|index| item(*index)).collect::<Vec<_>>().join(", "),
    }
}

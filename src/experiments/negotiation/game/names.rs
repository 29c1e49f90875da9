//! Names of agents and items in a game. They reveal neither strength nor value, and no name is a prefix of another.

/// Greatest number of items of a game; measures enumerate all allocations.
pub const MAX_ITEMS: usize = 16;

const AGENTS: [&str; 6] = ["Alpha", "Beta", "Gamma", "Delta", "Epsilon", "Zeta"];

const ITEMS: [&str; MAX_ITEMS] = [
    "Anchor", "Basket", "Candle", "Drum", "Easel", "Flute", "Globe", "Harp", "Inkwell", "Jar", "Kite", "Lantern",
    "Mirror", "Needle", "Oar", "Prism",
];

/// Name of an agent, by its position in the order of speaking.
pub fn agent(index: usize) -> String {
    AGENTS.get(index).map_or_else(|| format!("Agent {}", index + 1), |name| (*name).to_owned())
}

pub fn item(index: usize) -> String {
    ITEMS.get(index).map_or_else(|| format!("Item {}", index + 1), |name| (*name).to_owned())
}

/// `Anchor, Drum`; `nothing` for no items.
pub fn items(indices: &[usize]) -> String {
    match indices {
        [] => "nothing".to_owned(),
        indices => indices.iter().map(|index| item(*index)).collect::<Vec<_>>().join(", "),
    }
}

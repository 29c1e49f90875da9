//! `variations:` and the cells they span: every combination of their values, in the order listed, the last one changing
//! fastest.
//!
//! | entry | meaning |
//! |---|---|
//! | `{type: actor_model, actor, values}` | models that play an actor, by its short name |
//! | `{type: scenario_parameter, parameter, values}` | values of a key of `scenario.yaml` |

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::super::{
    describe,
    fields::{Fields, Reader},
    nearest::nearest,
    tree::{Node, Value},
};
use super::folder::{Scenario, actor_hint};

/// One dimension of the matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dimension {
    pub of: Varied,
    /// At least one; all different.
    pub values: Vec<Json>,
}

/// What a dimension varies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Varied {
    ActorModel { actor: String },
    ScenarioParameter { parameter: String },
}

impl Varied {
    /// The actor or the parameter.
    pub fn name(&self) -> &str {
        match self {
            Self::ActorModel { actor } => actor,
            Self::ScenarioParameter { parameter } => parameter,
        }
    }
}

/// A cell of the matrix: one value of every dimension.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// In the order of the dimensions.
    pub values: Vec<(Varied, Json)>,
}

impl Cell {
    /// `regulator=openai/gpt-4o-mini, turns=5`: values of dimensions that have several, or, where none has, all; without any
    /// `base scenario`.
    pub fn title(&self, dimensions: &[Dimension]) -> String {
        let differs = |of: &Varied| dimensions.iter().any(|d| d.of == *of && d.values.len() > 1);
        let values: Vec<_> = self.values.iter().filter(|(of, _)| differs(of)).cloned().collect();
        if values.is_empty() { self.description() } else { Self { values }.description() }
    }

    /// All values, whether or not another cell has others.
    fn description(&self) -> String {
        const LONGEST: usize = 48;
        let shown = |value: &Json| {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), |t| t.split_whitespace().collect::<Vec<_>>().join(" "));
            match text.chars().count() > LONGEST {
                true => text.chars().take(LONGEST).chain("…".chars()).collect(),
                false => text,
            }
        };
        let parts: Vec<String> =
            self.values.iter().map(|(of, value)| format!("{}={}", of.name(), shown(value))).collect();
        if parts.is_empty() { "base scenario".to_owned() } else { parts.join(", ") }
    }

    /// The scenario as it is in this cell.
    pub fn of(&self, base: &Scenario) -> Scenario {
        let mut scenario = base.clone();
        for (of, value) in &self.values {
            match of {
                Varied::ActorModel { actor } => {
                    if let (Some(actor), Some(model)) =
                        (scenario.actors.iter_mut().find(|known| known.short_name == *actor), value.as_str())
                    {
                        actor.llm_model = model.to_owned();
                    }
                }
                Varied::ScenarioParameter { parameter } => set(&mut scenario, parameter, value),
            }
        }
        scenario
    }
}

/// The keys of `scenario.yaml` that can be varied, and whether they are numbers.
const PARAMETERS: &[(&str, bool)] = &[
    ("turns", true),
    ("context_window_size", true),
    ("turn_duration", false),
    ("system_prompt", false),
    ("initial_world_state", false),
    ("world_state_model", false),
    ("description", false),
];

fn set(scenario: &mut Scenario, parameter: &str, value: &Json) {
    let text = || value.as_str().unwrap_or_default().to_owned();
    let number = || value.as_u64().and_then(|n| usize::try_from(n).ok());
    match parameter {
        "turns" => scenario.turns = number().unwrap_or(scenario.turns),
        "context_window_size" => scenario.context_window_size = number().or(scenario.context_window_size),
        "turn_duration" => scenario.turn_duration = Some(text()),
        "system_prompt" => scenario.system_prompt = text(),
        "initial_world_state" => scenario.initial_world_state = text(),
        "world_state_model" => scenario.world_state_model = text(),
        "description" => scenario.description = Some(text()),
        _ => {}
    }
}

/// All combinations, the last dimension changing fastest; without dimensions the base alone.
pub fn product(dimensions: &[Dimension]) -> Vec<Cell> {
    dimensions.iter().fold(vec![Cell::default()], |cells, dimension| {
        let with = |cell: &Cell, value: &Json| {
            let mut values = cell.values.clone();
            values.push((dimension.of.clone(), value.clone()));
            Cell { values }
        };
        cells.iter().flat_map(|cell| dimension.values.iter().map(move |value| with(cell, value))).collect()
    })
}

/// Reads `variations:`; an empty list is the base alone. Without a scenario actors cannot be checked, everything else still is.
pub fn read(reader: &Reader<'_>, node: &Node, scenario: Option<&Scenario>) -> Option<Vec<Dimension>> {
    if matches!(&node.value, Value::List(items) if items.is_empty()) {
        return Some(Vec::new());
    }
    let dimensions = reader.list(node, |n| dimension(reader, n, scenario).map(|found| (n.clone(), found)))?;
    let mut good = true;
    for (i, (node, dimension)) in dimensions.iter().enumerate() {
        if dimensions[..i].iter().any(|(_, earlier)| earlier.of == dimension.of) {
            let what = format!("`{}` is varied twice", dimension.of.name());
            reader.refuse(node, what, "put all its values into one entry");
            good = false;
        }
    }
    good.then(|| dimensions.into_iter().map(|(_, dimension)| dimension).collect())
}

#[derive(Clone, Copy)]
enum Type {
    ActorModel,
    ScenarioParameter,
}

fn dimension(reader: &Reader<'_>, node: &Node, scenario: Option<&Scenario>) -> Option<Dimension> {
    let mut fields = Fields::open(reader, node)?;
    let types = [("actor_model", Type::ActorModel), ("scenario_parameter", Type::ScenarioParameter)];
    let kind = fields.required("type", "type: actor_model", |n| reader.choice(n, &types));
    let found = match kind {
        Some(Type::ActorModel) => {
            fields.belongs("parameter", "in an entry with `type: scenario_parameter`");
            let actor = fields.required("actor", "actor: regulator", |n| actor(reader, n, scenario));
            let values = fields.required("values", "values: [openai/gpt-4o-mini]", |n| {
                values(reader, n, |value| reader.filled_text(value).map(Json::from))
            });
            actor.zip(values).map(|(actor, values)| Dimension { of: Varied::ActorModel { actor }, values })
        }
        Some(Type::ScenarioParameter) => {
            fields.belongs("actor", "in an entry with `type: actor_model`");
            let parameter = fields.required("parameter", "parameter: turns", |n| parameter(reader, n));
            let number = parameter.as_ref().is_some_and(|(_, number)| *number);
            let values = fields.required("values", "values: [3, 5]", |n| {
                values(reader, n, |value| match number {
                    true => reader.whole(value, 1..=10_000).map(Json::from),
                    false => reader.filled_text(value).map(Json::from),
                })
            });
            parameter
                .zip(values)
                .map(|((parameter, _), values)| Dimension { of: Varied::ScenarioParameter { parameter }, values })
        }
        None => {
            for key in ["actor", "parameter", "values"] {
                let _ = fields.get(key);
            }
            None
        }
    };
    fields.finish();
    found
}

fn actor(reader: &Reader<'_>, node: &Node, scenario: Option<&Scenario>) -> Option<String> {
    let name = reader.filled_text(node)?;
    let Some(scenario) = scenario else { return Some(name) };
    let known = scenario.actors.iter().map(|actor| actor.short_name.as_str());
    if known.clone().any(|known| known == name) {
        return Some(name);
    }
    let what = format!("no actor of the scenario has the short_name `{}`", describe::short(&name));
    reader.refuse(node, what, actor_hint(&name, known));
    None
}

fn parameter(reader: &Reader<'_>, node: &Node) -> Option<(String, bool)> {
    let name = reader.filled_text(node)?;
    if let Some((known, number)) = PARAMETERS.iter().find(|(known, _)| *known == name) {
        return Some(((*known).to_owned(), *number));
    }
    let names = || PARAMETERS.iter().map(|(name, _)| *name);
    let all = names().collect::<Vec<_>>().join(", ");
    let hint = match nearest(&name, names()) {
        Some(near) => format!("did you mean `{near}`? There are {all}"),
        None => format!("there are {all}; for the model of an actor write type: actor_model"),
    };
    reader.refuse(node, format!("`{}` is no parameter of a scenario", describe::short(&name)), hint);
    None
}

/// A list of different values.
fn values(reader: &Reader<'_>, node: &Node, read: impl Fn(&Node) -> Option<Json>) -> Option<Vec<Json>> {
    let values = reader.list(node, |n| read(n).map(|value| (n.clone(), value)))?;
    let mut good = true;
    for (i, (node, value)) in values.iter().enumerate() {
        if values[..i].iter().any(|(_, earlier)| earlier == value) {
            reader.refuse(node, "this value is listed twice", "remove one; runs_per_variation says how often");
            good = false;
        }
    }
    good.then(|| values.into_iter().map(|(_, value)| value).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models(actor: &str, values: &[&str]) -> Dimension {
        let of = Varied::ActorModel { actor: actor.to_owned() };
        Dimension { of, values: values.iter().map(|value| Json::from(*value)).collect() }
    }

    #[test]
    fn every_combination_comes_in_the_order_listed() {
        let cells = product(&[models("a", &["m1", "m2"]), models("b", &["x", "y", "z"])]);
        let all: Vec<String> = cells.iter().map(Cell::description).collect();
        assert_eq!(all, ["a=m1, b=x", "a=m1, b=y", "a=m1, b=z", "a=m2, b=x", "a=m2, b=y", "a=m2, b=z"]);
        assert_eq!(product(&[])[0].title(&[]), "base scenario");
        let (varied, fixed) = (models("a", &["m1", "m2"]), models("b", &["x"]));
        let dimensions = [varied, fixed];
        assert_eq!(
            product(&dimensions)[1].title(&dimensions),
            "a=m2",
            "a dimension with one value does not distinguish cells"
        );
        assert_eq!(product(&dimensions[1..])[0].title(&dimensions[1..]), "b=x");
        let long = models("a", &[&"word ".repeat(100)]);
        assert!(product(&[long])[0].description().chars().count() < 60);
    }
}

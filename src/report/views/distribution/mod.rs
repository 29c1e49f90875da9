//! Distributions: how many runs of each condition have each category of a label.
//!
//! A run without a category is counted as missing and excluded from n; a category that is not on the menu is an error.

pub mod analysis;
pub mod figure;
pub(crate) mod section;
pub mod tables;

use tiltmeter_model::problem::Problem;

/// Counts of categories in groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// Heading of figure and section.
    pub title: String,
    /// Name of the label that was counted.
    pub label: String,
    /// The categories, in the order in which they are shown.
    pub menu: Vec<String>,
    /// The groups (conditions), the control first.
    pub groups: Vec<DistributionGroup>,
    /// What the reader has to know of the data.
    pub notes: Vec<String>,
}

/// One group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DistributionGroup {
    /// Name of the group, unique in a distribution.
    pub label: String,
    /// What people call it.
    pub title: Option<String>,
    /// Runs per category of the menu.
    pub counts: Vec<u64>,
    /// Runs without a category, which are not part of n.
    pub missing: usize,
}

impl DistributionGroup {
    /// Counts `runs`, each the name of a run and its category. Errors on a category that is not on the menu.
    pub fn tally<'a>(
        label: &str,
        title: Option<&str>,
        menu: &[String],
        runs: impl IntoIterator<Item = (String, Option<&'a str>)>,
    ) -> Result<Self, Problem> {
        let mut group =
            Self { label: label.to_owned(), title: title.map(str::to_owned), counts: vec![0; menu.len()], missing: 0 };
        for (run, category) in runs {
            match category.map(|category| (category, menu.iter().position(|entry| entry == category))) {
                None => group.missing += 1,
                Some((_, Some(index))) => group.counts[index] += 1,
                Some((category, None)) => {
                    return Err(Problem::new(format!("`{category}` is not on the menu"))
                        .at(format!("condition `{label}`, run {run}"))
                        .hint(format!("the menu is: {}; put the category on it", menu.join(", "))));
                }
            }
        }
        Ok(group)
    }

    /// Runs that have a category.
    pub fn n(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What people call it, or else its label.
    pub fn name(&self) -> &str {
        self.title.as_deref().unwrap_or(&self.label)
    }
}

impl Distribution {
    /// Whether the parts fit together: there is a menu of different words, there are groups, labels differ, every group has one
    /// count per word.
    pub fn check(&self) -> Result<(), Problem> {
        let here = || format!("label `{}`", self.label);
        if self.menu.is_empty() {
            return Err(Problem::new("the menu is empty").at(here()).hint("name the categories that the label can be"));
        }
        if let Some(twice) = repeated(self.menu.iter()) {
            return Err(Problem::new(format!("`{twice}` is on the menu twice")).at(here()).hint("name it once"));
        }
        if self.groups.is_empty() {
            return Err(Problem::new("there are no groups to count in").at(here()).hint("name at least one condition"));
        }
        if let Some(twice) = repeated(self.groups.iter().map(|group| &group.label)) {
            return Err(Problem::new(format!("two groups are called `{twice}`"))
                .at(here())
                .hint("give every group its own name"));
        }
        for group in &self.groups {
            if group.counts.len() != self.menu.len() {
                return Err(Problem::new(format!("{} counts for {} categories", group.counts.len(), self.menu.len()))
                    .at(format!("{}, group `{}`", here(), group.label))
                    .hint("give one count per category"));
            }
        }
        Ok(())
    }
}

/// The first item that was there before.
fn repeated<'a>(items: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let mut seen = std::collections::BTreeSet::new();
    items.into_iter().find(|item| !seen.insert(item.as_str()))
}

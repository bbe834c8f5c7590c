//! Figures by variant and name: medians of rounds, printed as a table and kept as JSON.

use std::{collections::BTreeMap, io::Write as _, path::Path};

use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

/// The figures of a part, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    variants: Vec<String>,
    names: Vec<&'static str>,
    values: BTreeMap<(String, &'static str), Vec<f64>>,
}

impl Figures {
    /// Adds one round's figure of a variant.
    pub(crate) fn add(&mut self, variant: &str, name: &'static str, value: f64) {
        if !self.variants.iter().any(|known| known == variant) {
            self.variants.push(variant.to_owned());
        }
        if !self.names.contains(&name) {
            self.names.push(name);
        }
        self.values.entry((variant.to_owned(), name)).or_default().push(value);
    }

    /// The median of a figure's rounds.
    pub(crate) fn median(&self, variant: &str, name: &'static str) -> Option<f64> {
        self.values
            .get(&(variant.to_owned(), name))
            .map(|values| median(values))
    }

    /// Adds how the medians of one variant compare with another's.
    pub(crate) fn compare(&mut self, variant: &str, with: &str, names: &[&'static str]) {
        for name in names {
            if let (Some(ours), Some(theirs)) = (self.median(variant, name), self.median(with, name))
                && theirs > 0.0
            {
                self.add(&format!("{variant} / {with}"), name, ours / theirs);
            }
        }
    }

    /// Prints the table, a line for each variant.
    pub(crate) fn print(&self, machine: &str, versions: &str) -> anyhow::Result<()> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(std::iter::once("").chain(self.names.iter().copied()));
        for variant in &self.variants {
            let cells = self
                .names
                .iter()
                .map(|name| self.median(variant, name).map_or_else(String::new, shown));
            table.add_row(std::iter::once(variant.clone()).chain(cells));
        }
        for index in 1..=self.names.len() {
            if let Some(column) = table.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "{table}\nmachine: {machine}\nservices: {versions}")?;
        Ok(())
    }

    /// Writes medians and every round.
    pub(crate) fn write(&self, file: &Path, machine: &str, versions: &str) -> anyhow::Result<()> {
        let variants: BTreeMap<&str, BTreeMap<&str, Value>> = self
            .variants
            .iter()
            .map(|variant| {
                let figures = self.names.iter().filter_map(|name| {
                    let rounds = self.values.get(&(variant.clone(), *name))?;
                    Some((*name, json!({"median": median(rounds), "rounds": rounds})))
                });
                (variant.as_str(), figures.collect())
            })
            .collect();
        let machine: Value = serde_json::from_str(machine).context("the machine's facts are JSON")?;
        let all = json!({"machine": machine, "services": versions, "variants": variants});
        std::fs::write(file, format!("{all:#}\n")).with_context(|| format!("write {}", file.display()))
    }
}

fn shown(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// The middle of some values; of an even number of them the lower one.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which a share of the values lies (nearest rank).
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

//! A lane's send window and cap. Either is there where its first field is; its other fields then have their rules.

use crate::{
    config::{ConfigError, layers::Layers, values::Setting},
    domain::{
        GroupName, Lane,
        policy::{Cap, Days, LanePolicy, Period, SendWindow, TimeOfDay, Zone},
    },
};

pub(super) fn of_lane(layers: &Layers, lane: Lane) -> Result<LanePolicy, ConfigError> {
    Ok(LanePolicy {
        send_window: send_window(layers, lane)?,
        cap: cap(layers, lane)?,
    })
}

/// A rule of a job's field, as it reads in "… must be X".
fn expected(rule: &str) -> &str {
    rule.strip_prefix("must be ").unwrap_or(rule)
}

/// The fields of one section, of which some must be there if any is.
struct Section<'a> {
    layers: &'a Layers,
    name: String,
}

impl Section<'_> {
    fn path(&self, field: &str) -> String {
        format!("{}.{field}", self.name)
    }

    fn is_given(&self, fields: &[&str]) -> bool {
        fields.iter().any(|field| self.layers.get(&self.path(field)).is_some())
    }

    fn read<T>(&self, field: &str, read: impl FnOnce(Setting<'_>) -> Result<T, ConfigError>) -> Result<T, ConfigError> {
        let path = self.path(field);
        match self.layers.setting(&path) {
            Some(setting) => read(setting),
            None => Err(ConfigError::Missing {
                name: path,
                hint: format!("other settings of {} are given, and they need it", self.name),
            }),
        }
    }

    fn text<T>(&self, field: &str, rule: &str, parse: fn(&str) -> Result<T, &'static str>) -> Result<T, ConfigError> {
        self.read(field, |setting| {
            setting.parse(expected(rule), |text| parse(text.trim()).ok())
        })
    }
}

fn send_window(layers: &Layers, lane: Lane) -> Result<Option<SendWindow>, ConfigError> {
    let section = Section {
        layers,
        name: format!("lanes.{lane}.send_window"),
    };
    if !section.is_given(&["start", "end", "timezone", "days"]) {
        return Ok(None);
    }
    let window = SendWindow {
        start: section.text("start", TimeOfDay::RULE, TimeOfDay::parse)?,
        end: section.text("end", TimeOfDay::RULE, TimeOfDay::parse)?,
        timezone: section.text("timezone", Zone::RULE, Zone::parse)?,
        days: if section.is_given(&["days"]) {
            section.text(
                "days",
                "days between commas: mon, tue, wed, thu, fri, sat, sun",
                Days::parse,
            )?
        } else {
            Days::ALL
        },
    };
    match window.fault() {
        Some((field, rule)) => section.read(field, |setting| Err(setting.invalid(expected(rule)))),
        None => Ok(Some(window)),
    }
}

fn cap(layers: &Layers, lane: Lane) -> Result<Option<Cap>, ConfigError> {
    let section = Section {
        layers,
        name: format!("lanes.{lane}.cap"),
    };
    if !section.is_given(&["max", "period", "group_prefix"]) {
        return Ok(None);
    }
    let group = "1 to 128 characters";
    Ok(Some(Cap {
        max: section.read("max", |setting| setting.whole(1, u64::from(Cap::MOST)))?,
        period: section.text("period", Period::RULE, Period::parse)?,
        group_prefix: if section.is_given(&["group_prefix"]) {
            Some(section.read("group_prefix", |setting| {
                setting.parse(group, |text| GroupName::parse(text).ok())
            })?)
        } else {
            None
        },
    }))
}

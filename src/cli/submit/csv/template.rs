//! A job with the columns of a table left open: `{{column}}` inside the strings of a JSON object.
//!
//! Knows JSON and columns; not what a job may say. Filling works on the parsed JSON, so that no cell can end a string or
//! add a field, whatever is in it.

use serde_json::{Map, Value};
use thiserror::Error;

/// What stands for a column whose cell is JSON: `"{{to:json}}"`.
const JSON: &str = ":json";

/// Why a template can't be used. Each sentence begins with where it is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum TemplateError {
    #[error("it is not JSON: {0}")]
    Syntax(String),
    #[error("it must be one JSON object, a job")]
    NoObject,
    #[error("{path}: {{{{ has no }}}} behind it")]
    Open { path: String },
    #[error("{path}: {{{{}}}} names no column")]
    Unnamed { path: String },
    #[error("{path}: the table has no column {column:?}{hint}")]
    Unknown { path: String, column: String, hint: String },
    #[error("{path}: {{{{{column}:json}}}} must be the whole string")]
    NotAlone { path: String, column: String },
    #[error("it names no column, so every row would make the same job")]
    Constant,
    #[error("id: it names no column, so every row would have the same; leave it out, and ids are made of the rows")]
    ConstantId,
}

/// Why a row can't fill a template: which column, and never its cell.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum FillError {
    #[error("column {0:?} is empty, and the template has no default for it, such as {{{{{0}|…}}}}")]
    Empty(String),
    #[error("column {0:?} is not JSON, as the template asks by {{{{{0}:json}}}}")]
    NotJson(String),
}

/// A parsed template.
#[derive(Debug)]
pub(super) struct Template {
    fields: Vec<(String, Node)>,
    columns: Vec<String>,
}

#[derive(Debug)]
enum Node {
    Fixed(Value),
    Text(Vec<Piece>),
    Json(Slot),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
}

#[derive(Debug)]
enum Piece {
    Literal(String),
    Cell(Slot),
}

/// A cell's place.
#[derive(Debug)]
struct Slot {
    column: usize,
    /// What an empty cell stands for.
    default: Option<String>,
}

impl Template {
    /// Parses a template for a table with these columns.
    pub(super) fn parse(text: &str, columns: &[String]) -> Result<Self, TemplateError> {
        let value: Value = serde_json::from_str(text).map_err(|error| TemplateError::Syntax(error.to_string()))?;
        let Value::Object(fields) = value else {
            return Err(TemplateError::NoObject);
        };
        let fields = object(fields, columns, "")?;
        if !fields.iter().any(|(_, node)| node.is_open()) {
            return Err(TemplateError::Constant);
        }
        if fields.iter().any(|(name, node)| name == "id" && !node.is_open()) {
            return Err(TemplateError::ConstantId);
        }
        Ok(Self {
            fields,
            columns: columns.to_vec(),
        })
    }

    /// Whether a row's id comes from the template.
    pub(super) fn has_id(&self) -> bool {
        self.fields.iter().any(|(name, _)| name == "id")
    }

    /// The job of a row, whose cells are in the order of the columns.
    pub(super) fn fill<'a>(&self, cell: impl Fn(usize) -> &'a str) -> Result<Map<String, Value>, FillError> {
        fill_object(&self.fields, &cell).map_err(|fault| match fault {
            Fault::Empty(column) => FillError::Empty(self.columns[column].clone()),
            Fault::NotJson(column) => FillError::NotJson(self.columns[column].clone()),
        })
    }
}

impl Node {
    fn parse(value: Value, columns: &[String], path: &str) -> Result<Self, TemplateError> {
        Ok(match value {
            Value::String(text) => string(text, columns, path)?,
            Value::Array(values) => {
                let nodes = values.into_iter().enumerate();
                let nodes = nodes.map(|(index, value)| Self::parse(value, columns, &format!("{path}[{index}]")));
                Self::List(nodes.collect::<Result<_, _>>()?)
            }
            Value::Object(fields) => Self::Object(object(fields, columns, path)?),
            fixed => Self::Fixed(fixed),
        })
    }

    fn is_open(&self) -> bool {
        match self {
            Self::Fixed(_) => false,
            Self::Text(_) | Self::Json(_) => true,
            Self::List(nodes) => nodes.iter().any(Self::is_open),
            Self::Object(fields) => fields.iter().any(|(_, node)| node.is_open()),
        }
    }
}

fn object(fields: Map<String, Value>, columns: &[String], path: &str) -> Result<Vec<(String, Node)>, TemplateError> {
    fields
        .into_iter()
        .map(|(name, value)| {
            let path = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            Ok((name, Node::parse(value, columns, &path)?))
        })
        .collect()
}

/// The pieces of a string: `{{{{` is a literal `{{`, `{{column}}` a cell, `{{column|text}}` a cell with a default.
fn string(text: String, columns: &[String], path: &str) -> Result<Node, TemplateError> {
    if !text.contains("{{") {
        return Ok(Node::Fixed(Value::String(text)));
    }
    let (mut pieces, mut literal, mut rest) = (Vec::new(), String::new(), text.as_str());
    while let Some((before, after)) = rest.split_once("{{") {
        literal.push_str(before);
        if let Some(behind) = after.strip_prefix("{{") {
            literal.push_str("{{");
            rest = behind;
            continue;
        }
        let (inside, behind) = after
            .split_once("}}")
            .ok_or_else(|| TemplateError::Open { path: path.to_owned() })?;
        let (slot, is_json) = slot(inside, columns, path)?;
        if is_json {
            if !pieces.is_empty() || !literal.is_empty() || !behind.is_empty() {
                let (path, column) = (path.to_owned(), columns[slot.column].clone());
                return Err(TemplateError::NotAlone { path, column });
            }
            return Ok(Node::Json(slot));
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
        }
        pieces.push(Piece::Cell(slot));
        rest = behind;
    }
    literal.push_str(rest);
    if pieces.is_empty() {
        return Ok(Node::Fixed(Value::String(literal)));
    }
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(Node::Text(pieces))
}

fn slot(inside: &str, columns: &[String], path: &str) -> Result<(Slot, bool), TemplateError> {
    let (name, default) = match inside.split_once('|') {
        Some((name, default)) => (name.trim(), Some(default.trim().to_owned())),
        None => (inside.trim(), None),
    };
    let find = |name: &str| columns.iter().position(|column| column == name);
    // A column may itself be called `a:json`: the whole name goes first.
    let (name, is_json) = match name.strip_suffix(JSON) {
        Some(short) if find(name).is_none() => (short.trim(), true),
        _ => (name, false),
    };
    if name.is_empty() {
        return Err(TemplateError::Unnamed { path: path.to_owned() });
    }
    let column = find(name).ok_or_else(|| TemplateError::Unknown {
        path: path.to_owned(),
        column: name.to_owned(),
        hint: hint(name, columns),
    })?;
    Ok((Slot { column, default }, is_json))
}

/// The column that may have been meant, or those that there are.
fn hint(name: &str, columns: &[String]) -> String {
    let near = columns
        .iter()
        .map(|column| {
            (
                strsim::jaro_winkler(&name.to_lowercase(), &column.to_lowercase()),
                column,
            )
        })
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((_, column)) => format!("; did you mean {column:?}?"),
        None => format!("; it has {}", columns.join(", ")),
    }
}

enum Fault {
    Empty(usize),
    NotJson(usize),
}

fn fill_object<'a>(fields: &[(String, Node)], cell: &impl Fn(usize) -> &'a str) -> Result<Map<String, Value>, Fault> {
    fields
        .iter()
        .map(|(name, node)| Ok((name.clone(), fill_node(node, cell)?)))
        .collect()
}

fn fill_node<'a>(node: &Node, cell: &impl Fn(usize) -> &'a str) -> Result<Value, Fault> {
    Ok(match node {
        Node::Fixed(value) => value.clone(),
        Node::Text(pieces) => {
            let mut text = String::new();
            for piece in pieces {
                match piece {
                    Piece::Literal(literal) => text.push_str(literal),
                    Piece::Cell(slot) => text.push_str(fill_slot(slot, cell)?),
                }
            }
            Value::String(text)
        }
        Node::Json(slot) => serde_json::from_str(fill_slot(slot, cell)?).map_err(|_| Fault::NotJson(slot.column))?,
        Node::List(nodes) => Value::Array(
            nodes
                .iter()
                .map(|node| fill_node(node, cell))
                .collect::<Result<_, _>>()?,
        ),
        Node::Object(fields) => Value::Object(fill_object(fields, cell)?),
    })
}

fn fill_slot<'a: 'b, 'b>(slot: &'b Slot, cell: &impl Fn(usize) -> &'a str) -> Result<&'b str, Fault> {
    match (cell(slot.column), &slot.default) {
        ("", Some(default)) => Ok(default),
        ("", None) => Err(Fault::Empty(slot.column)),
        (text, _) => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn columns() -> Vec<String> {
        ["to", "name", "time", "odd:json"].map(str::to_owned).to_vec()
    }

    fn fill(template: &Value, cells: [&str; 4]) -> Result<Value, FillError> {
        let template = Template::parse(&template.to_string(), &columns()).unwrap();
        template.fill(|column| cells[column]).map(Value::Object)
    }

    fn error(template: &Value) -> String {
        Template::parse(&template.to_string(), &columns())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn cells_fill_strings_at_any_depth_and_defaults_fill_empty_cells() {
        let template = json!({"to": "{{to}}", "n": 1, "message": {"body": [
            {"Text": "Dear {{ name | friend }}, {{{{soon}}: {{time}}"}]}, "odd": "{{odd:json}}"});
        let expected =
            json!({"to": "a", "n": 1, "message": {"body": [{"Text": "Dear B \" }}, {{soon}}: 9"}]}, "odd": "x"});
        assert_eq!(fill(&template, ["a", "B \" }}", "9", "x"]).unwrap(), expected);
        let filled = fill(&template, ["a", "", "9", "x"]).unwrap();
        assert_eq!(filled["message"]["body"][0]["Text"], "Dear friend, {{soon}}: 9");
        let empty = fill(&template, ["a", "b", "", "x"]);
        assert_eq!(empty, Err(FillError::Empty("time".to_owned())));
    }

    #[test]
    fn a_json_cell_is_a_value_of_its_own_type() {
        let template = json!({"to": "{{to:json}}", "at": "{{time:json|7}}"});
        let filled = fill(&template, ["[\"a\",\"b\"]", "", "12", ""]).unwrap();
        assert_eq!(filled, json!({"to": ["a", "b"], "at": 12}));
        assert_eq!(fill(&template, ["[]", "", "", ""]).unwrap()["at"], 7);
        assert_eq!(
            fill(&template, ["a", "", "", ""]),
            Err(FillError::NotJson("to".to_owned()))
        );
    }

    #[test]
    fn what_is_wrong_with_a_template_is_said_with_its_place() {
        assert_eq!(
            error(&json!({"message": {"text": "{{nmae}}"}})),
            "message.text: the table has no column \"nmae\"; did you mean \"name\"?"
        );
        assert!(error(&json!({"to": "{{x}}"})).ends_with("it has to, name, time, odd:json"));
        assert_eq!(error(&json!({"to": ["{{to"]})), "to[0]: {{ has no }} behind it");
        assert_eq!(error(&json!({"to": "{{}}"})), "to: {{}} names no column");
        assert!(error(&json!({"to": "a {{to:json}}"})).contains("{{to:json}} must be the whole string"));
        assert!(error(&json!({"to": "a {{{{"})).contains("names no column"));
        assert!(error(&json!({"to": "{{to}}", "id": "x"})).starts_with("id: "));
        assert!(error(&json!([1])).contains("one JSON object"));
        assert!(Template::parse("{", &[]).unwrap_err().to_string().contains("not JSON"));
    }

    proptest! {
        #[test]
        fn whatever_is_in_a_cell_stays_in_its_string(cell in "\\PC{1,40}") {
            let template = json!({"to": "{{to}}", "message": {"text": "<{{name}}>"}});
            let filled = fill(&template, [&cell, &cell, "", ""]).unwrap();
            prop_assert_eq!(filled, json!({"to": cell, "message": {"text": format!("<{cell}>")}}));
        }
    }
}

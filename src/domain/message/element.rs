//! The elements of `MsgBody` and their plain contents. Media and merged messages have files of their own.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, Error as _, MapAccess, Visitor},
};
use serde_json::Value;

use super::{FileElement, ImageElement, RelayElement, SoundElement, VideoElement};

/// An element of `MsgBody`, tagged and spelled as the IM API does:
/// `{"MsgType": "TIMTextElem", "MsgContent": {"Text": "hi"}}`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "MsgType", content = "MsgContent", deny_unknown_fields)]
pub enum Element {
    /// Text.
    #[serde(rename = "TIMTextElem")]
    Text(TextElement),
    /// A place.
    #[serde(rename = "TIMLocationElem")]
    Location(LocationElement),
    /// A sticker.
    #[serde(rename = "TIMFaceElem")]
    Face(FaceElement),
    /// The app's own content.
    #[serde(rename = "TIMCustomElem")]
    Custom(CustomElement),
    /// A voice message.
    #[serde(rename = "TIMSoundElem")]
    Sound(SoundElement),
    /// A picture.
    #[serde(rename = "TIMImageElem")]
    Image(ImageElement),
    /// A file.
    #[serde(rename = "TIMFileElem")]
    File(FileElement),
    /// A video.
    #[serde(rename = "TIMVideoFileElem")]
    Video(VideoElement),
    /// Messages forwarded as one.
    #[serde(rename = "TIMRelayElem")]
    Relay(RelayElement),
}

impl Element {
    /// `MsgType` as the API spells it.
    pub const fn msg_type(&self) -> &'static str {
        match self {
            Self::Text(_) => "TIMTextElem",
            Self::Location(_) => "TIMLocationElem",
            Self::Face(_) => "TIMFaceElem",
            Self::Custom(_) => "TIMCustomElem",
            Self::Sound(_) => "TIMSoundElem",
            Self::Image(_) => "TIMImageElem",
            Self::File(_) => "TIMFileElem",
            Self::Video(_) => "TIMVideoFileElem",
            Self::Relay(_) => "TIMRelayElem",
        }
    }
}

/// `TIMTextElem`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TextElement {
    /// The text.
    #[serde(rename = "Text")]
    pub text: String,
}

/// `TIMLocationElem`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocationElement {
    /// What the place is.
    #[serde(rename = "Desc", default, skip_serializing_if = "Option::is_none")]
    pub desc: Option<String>,
    /// Degrees north, -90 to 90.
    #[serde(rename = "Latitude")]
    #[schemars(range(min = -90.0, max = 90.0))]
    pub latitude: f64,
    /// Degrees east, -180 to 180.
    #[serde(rename = "Longitude")]
    #[schemars(range(min = -180.0, max = 180.0))]
    pub longitude: f64,
}

/// `TIMFaceElem`: a sticker, by its number, the app's data, or both.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct FaceElement {
    /// The sticker's number, as the app counts them.
    #[serde(rename = "Index", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -2_147_483_648, max = 2_147_483_647))]
    pub index: Option<i32>,
    /// What else the app's clients need to show it.
    #[serde(rename = "Data", default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

/// `TIMCustomElem`: the app's own content; at least one of the four is given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct CustomElement {
    /// The content.
    #[serde(rename = "Data", default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// The text of the offline push. If this and the Desc of `offline_push` are both empty, nothing is pushed.
    #[serde(rename = "Desc", default, skip_serializing_if = "Option::is_none")]
    pub desc: Option<String>,
    /// Passed through to the client.
    #[serde(rename = "Ext", default, skip_serializing_if = "Option::is_none")]
    pub ext: Option<String>,
    /// The sound of the push by APNs.
    #[serde(rename = "Sound", default, skip_serializing_if = "Option::is_none")]
    pub sound: Option<String>,
}

/// The schema of a `MsgBody`: at least one element, at most one of them custom.
pub(super) fn body_schema(generator: &mut SchemaGenerator) -> Schema {
    let element = generator.subschema_for::<Element>();
    json_schema!({
        "type": "array",
        "items": element,
        "minItems": 1,
        "contains": {"properties": {"MsgType": {"const": "TIMCustomElem"}}, "required": ["MsgType"]},
        "minContains": 0,
        "maxContains": 1,
    })
}

/// The keys of an element. The tag is first: the job decoder hands the first field of a struct over first, so that
/// the content can be read as what the tag says.
const FIELDS: [&str; 2] = ["MsgType", "MsgContent"];

/// A key of an element.
#[derive(Deserialize)]
#[serde(field_identifier)]
enum Field {
    MsgType,
    MsgContent,
}

/// What `MsgType` says that `MsgContent` is.
#[derive(Clone, Copy, Deserialize)]
enum Kind {
    #[serde(rename = "TIMTextElem")]
    Text,
    #[serde(rename = "TIMLocationElem")]
    Location,
    #[serde(rename = "TIMFaceElem")]
    Face,
    #[serde(rename = "TIMCustomElem")]
    Custom,
    #[serde(rename = "TIMSoundElem")]
    Sound,
    #[serde(rename = "TIMImageElem")]
    Image,
    #[serde(rename = "TIMFileElem")]
    File,
    #[serde(rename = "TIMVideoFileElem")]
    Video,
    #[serde(rename = "TIMRelayElem")]
    Relay,
}

impl<'de> DeserializeSeed<'de> for Kind {
    type Value = Element;

    fn deserialize<D: Deserializer<'de>>(self, content: D) -> Result<Element, D::Error> {
        match self {
            Self::Text => TextElement::deserialize(content).map(Element::Text),
            Self::Location => LocationElement::deserialize(content).map(Element::Location),
            Self::Face => FaceElement::deserialize(content).map(Element::Face),
            Self::Custom => CustomElement::deserialize(content).map(Element::Custom),
            Self::Sound => SoundElement::deserialize(content).map(Element::Sound),
            Self::Image => ImageElement::deserialize(content).map(Element::Image),
            Self::File => FileElement::deserialize(content).map(Element::File),
            Self::Video => VideoElement::deserialize(content).map(Element::Video),
            Self::Relay => RelayElement::deserialize(content).map(Element::Relay),
        }
    }
}

/// By hand instead of derived: the derived one for a tag beside its content doesn't name an unknown field, and reads
/// the content through a buffer in which the path to a fault is lost.
impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ElementVisitor;

        impl<'de> Visitor<'de> for ElementVisitor {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an element of MsgType and MsgContent")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Element, A::Error> {
                let mut kind: Option<Kind> = None;
                let mut element = None;
                let mut early_content: Option<Value> = None;
                while let Some(field) = map.next_key()? {
                    match (field, kind) {
                        (Field::MsgType, Some(_)) => return Err(A::Error::duplicate_field("MsgType")),
                        (Field::MsgType, None) => kind = Some(map.next_value()?),
                        (Field::MsgContent, _) if element.is_some() || early_content.is_some() => {
                            return Err(A::Error::duplicate_field("MsgContent"));
                        }
                        (Field::MsgContent, Some(kind)) => element = Some(map.next_value_seed(kind)?),
                        (Field::MsgContent, None) => early_content = Some(map.next_value()?),
                    }
                }
                let kind = kind.ok_or_else(|| A::Error::missing_field("MsgType"))?;
                match (element, early_content) {
                    (Some(element), _) => Ok(element),
                    (None, Some(content)) => kind.deserialize(content).map_err(A::Error::custom),
                    (None, None) => Err(A::Error::missing_field("MsgContent")),
                }
            }
        }

        deserializer.deserialize_struct("Element", &FIELDS, ElementVisitor)
    }
}

//! The properties and headers of a message, whole: read by name, kept as bytes, given on unchanged.
//!
//! Knows AMQP's field types and nothing of what a message means. A job that is parked in Postgres may become a dead
//! letter weeks later, with everything its producer had set; so the byte form here is the wire's own and loses nothing.

use std::{collections::BTreeMap, fmt};

use lapin::{
    BasicProperties,
    protocol::basic::{gen_properties, parse_properties},
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

use super::legible::SUBSTITUTE;

/// The first byte of [`Properties::to_bytes`], so that another form can be told apart later.
const FORMAT: u8 = 1;
/// The longest AMQP short string, in bytes (AMQP 0-9-1, section 4.2.5.3).
pub const MAX_SHORT_STRING: usize = 255;

/// A header that another message may not carry on, because the broker acts on it: it would be routed a second time.
const ROUTING_HEADERS: [&str; 2] = ["CC", "BCC"];
/// What a quorum queue adds to a delivery; not the producer's.
const DELIVERY_COUNT_HEADERS: [&str; 2] = ["x-delivery-count", "x-acquired-count"];
/// Where the values of [`Properties::for_republishing`] are kept.
const SAVED_PREFIX: &str = "x-im-original-";

/// Why bytes are not properties.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PropertiesError {
    /// Empty, or written by a later version of this program.
    #[error("the properties have the unknown form {0:?}")]
    Format(Option<u8>),
    /// Cut off or damaged.
    #[error("the properties can't be read: damaged after byte {0}")]
    Damaged(usize),
}

/// Properties and headers of one message. `Debug` shows names, never values: headers can hold anything.
#[derive(Clone, PartialEq, Default)]
pub struct Properties(BasicProperties);

impl Properties {
    /// No property at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// `message_id`: where a job's id may stand.
    pub fn message_id(&self) -> Option<&str> {
        self.0.message_id().as_ref().map(ShortString::as_str)
    }

    /// `correlation_id`: given back with each reply.
    pub fn correlation_id(&self) -> Option<&str> {
        self.0.correlation_id().as_ref().map(ShortString::as_str)
    }

    /// `reply_to`: the queue that wants the job's events.
    pub fn reply_to(&self) -> Option<&str> {
        self.0.reply_to().as_ref().map(ShortString::as_str)
    }

    /// `content_type`.
    pub fn content_type(&self) -> Option<&str> {
        self.0.content_type().as_ref().map(ShortString::as_str)
    }

    /// `content_encoding`.
    pub fn content_encoding(&self) -> Option<&str> {
        self.0.content_encoding().as_ref().map(ShortString::as_str)
    }

    /// `user_id`: the producer's login, where it set one; checked by the broker.
    pub fn user_id(&self) -> Option<&str> {
        self.0.user_id().as_ref().map(ShortString::as_str)
    }

    /// `app_id`.
    pub fn app_id(&self) -> Option<&str> {
        self.0.app_id().as_ref().map(ShortString::as_str)
    }

    /// `expiration`: the message's time to live in its queue, milliseconds as text.
    pub fn expiration(&self) -> Option<&str> {
        self.0.expiration().as_ref().map(ShortString::as_str)
    }

    /// `timestamp`: Unix seconds by AMQP's definition, whatever the producer put there.
    pub fn timestamp(&self) -> Option<u64> {
        *self.0.timestamp()
    }

    /// A header as text: strings as they are (bytes that are no UTF-8 are replaced), numbers, booleans and times printed.
    /// `None` if it is absent or a table, an array, a decimal or nothing.
    pub fn header(&self, name: &str) -> Option<String> {
        let value = self.headers()?.inner().get(name)?;
        Some(match value {
            AMQPValue::LongString(v) => v.to_string(),
            AMQPValue::ShortString(v) => v.to_string(),
            AMQPValue::ByteArray(v) => String::from_utf8_lossy(v.as_slice()).into_owned(),
            AMQPValue::Boolean(v) => v.to_string(),
            AMQPValue::ShortShortInt(v) => v.to_string(),
            AMQPValue::ShortShortUInt(v) => v.to_string(),
            AMQPValue::ShortInt(v) => v.to_string(),
            AMQPValue::ShortUInt(v) => v.to_string(),
            AMQPValue::LongInt(v) => v.to_string(),
            AMQPValue::LongUInt(v) => v.to_string(),
            AMQPValue::LongLongInt(v) => v.to_string(),
            AMQPValue::Timestamp(v) => v.to_string(),
            AMQPValue::Float(v) => v.to_string(),
            AMQPValue::Double(v) => v.to_string(),
            AMQPValue::DecimalValue(_) | AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) | AMQPValue::Void => {
                return None;
            }
        })
    }

    /// A header as a whole number, also where a client sent it as text.
    pub fn header_u64(&self, name: &str) -> Option<u64> {
        self.header(name)?.parse().ok()
    }

    /// Names of what isn't UTF-8 where AMQP has short strings: properties, and headers by their own names. There each
    /// byte that breaks UTF-8 is shown as SUBSTITUTE (U+001A), which no name or id should hold anyway. `type` alone may
    /// also mean that the properties as a whole could not be read.
    pub fn illegible(&self) -> Vec<String> {
        let short = [
            ("content_type", self.0.content_type()),
            ("content_encoding", self.0.content_encoding()),
            ("correlation_id", self.0.correlation_id()),
            ("reply_to", self.0.reply_to()),
            ("expiration", self.0.expiration()),
            ("message_id", self.0.message_id()),
            ("type", self.0.kind()),
            ("user_id", self.0.user_id()),
            ("app_id", self.0.app_id()),
            ("cluster_id", self.0.cluster_id()),
        ];
        let mut names: Vec<String> = short
            .into_iter()
            .filter(|(_, value)| value.as_ref().is_some_and(is_illegible))
            .map(|(name, _)| name.to_owned())
            .collect();
        if let Some(table) = self.headers() {
            let broken = table
                .into_iter()
                .filter(|(name, value)| is_illegible(name) || holds_illegible(value));
            names.extend(broken.map(|(name, _)| format!("header {name:?}")));
        }
        names
    }

    /// The names of all headers, sorted.
    pub fn header_names(&self) -> impl Iterator<Item = &str> {
        self.headers()
            .into_iter()
            .flat_map(|table| table.inner().keys().map(ShortString::as_str))
    }

    /// Sets `message_id`, or leaves it as it was if the value is longer than [`MAX_SHORT_STRING`] bytes.
    #[must_use]
    pub fn with_message_id(self, value: &str) -> Self {
        self.with_short(value, BasicProperties::with_message_id)
    }

    /// Sets `correlation_id`, or leaves it as it was if the value is longer than [`MAX_SHORT_STRING`] bytes.
    #[must_use]
    pub fn with_correlation_id(self, value: &str) -> Self {
        self.with_short(value, BasicProperties::with_correlation_id)
    }

    /// Sets `reply_to`, or leaves it as it was if the value is longer than [`MAX_SHORT_STRING`] bytes.
    #[must_use]
    pub fn with_reply_to(self, value: &str) -> Self {
        self.with_short(value, BasicProperties::with_reply_to)
    }

    /// Sets `content_type`, or leaves it as it was if the value is longer than [`MAX_SHORT_STRING`] bytes.
    #[must_use]
    pub fn with_content_type(self, value: &str) -> Self {
        self.with_short(value, BasicProperties::with_content_type)
    }

    /// With a time of publication, in Unix seconds.
    #[must_use]
    pub fn with_timestamp(self, seconds: u64) -> Self {
        Self(self.0.with_timestamp(seconds))
    }

    /// Sets a header to a text. A name longer than [`MAX_SHORT_STRING`] bytes is left out.
    #[must_use]
    pub fn with_header(self, name: &str, value: &str) -> Self {
        self.with_value(name, AMQPValue::LongString(value.into()))
    }

    /// Sets a header to a whole number.
    #[must_use]
    pub fn with_header_i64(self, name: &str, value: i64) -> Self {
        self.with_value(name, AMQPValue::LongLongInt(value))
    }

    /// Removes headers by name.
    #[must_use]
    pub fn without_headers(self, drop: impl Fn(&str) -> bool) -> Self {
        let Some(table) = self.headers() else { return self };
        let kept: BTreeMap<_, _> = table
            .into_iter()
            .filter(|(name, _)| !drop(name.as_str()))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect();
        Self(self.0.with_headers(FieldTable::from(kept)))
    }

    /// Everything, as bytes that [`Properties::from_bytes`] reads back equal, for every AMQP field type.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        bytes.extend(self.encode());
        bytes
    }

    /// Reads what [`Properties::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PropertiesError> {
        match bytes.split_first() {
            Some((&FORMAT, rest)) => match parse_properties(rest) {
                Ok(([], properties)) => Ok(Self(properties)),
                Ok((left, _)) => Err(PropertiesError::Damaged(bytes.len() - left.len())),
                Err(_) => Err(PropertiesError::Damaged(1)),
            },
            other => Err(PropertiesError::Format(other.map(|(format, _)| *format))),
        }
    }

    /// How long the properties are on the wire, in bytes; a header frame must fit the connection's frame size.
    pub(super) fn wire_len(&self) -> usize {
        self.encode().len()
    }

    /// These properties on another message of ours, so that it rests where it is put: what the broker would act on is
    /// kept as headers instead. A `user_id` other than `our_user` closes the channel that publishes it (406), an
    /// `expiration` would let a dead letter vanish, and `CC` would route it back to the lane that it came from.
    pub(super) fn for_republishing(&self, our_user: &str) -> Self {
        let mut kept = Self(without_short(&self.0, |name| match name {
            "expiration" => true,
            "user_id" => self.user_id() != Some(our_user),
            _ => false,
        }));
        if let Some(value) = self.expiration() {
            kept = kept.with_header(&format!("{SAVED_PREFIX}expiration"), value);
        }
        if let Some(value) = self.user_id().filter(|user| *user != our_user) {
            kept = kept.with_header(&format!("{SAVED_PREFIX}user-id"), value);
        }
        for name in ROUTING_HEADERS {
            if let Some(value) = self.headers().and_then(|table| table.inner().get(name)).cloned() {
                kept = kept.without_headers(|header| header == name);
                kept = kept.with_value(&format!("{SAVED_PREFIX}{}", name.to_lowercase()), value);
            }
        }
        kept.without_headers(|header| DELIVERY_COUNT_HEADERS.contains(&header))
    }

    /// The headers of the original without what dead-lettering added, for a replay.
    pub(super) fn without_letter_headers(&self) -> Self {
        self.clone()
            .without_headers(|name| name.starts_with("x-im-") || DELIVERY_COUNT_HEADERS.contains(&name))
    }

    /// Splits a delivery's properties into the producer's own and the queue's count of earlier deliveries.
    pub(super) fn from_delivery(properties: BasicProperties) -> (Self, Option<u64>) {
        let all = Self(properties);
        let count = all.header_u64(DELIVERY_COUNT_HEADERS[0]);
        if count.is_none()
            && all
                .headers()
                .is_none_or(|table| !table.contains_key(DELIVERY_COUNT_HEADERS[1]))
        {
            return (all, None);
        }
        let own = all.without_headers(|name| DELIVERY_COUNT_HEADERS.contains(&name));
        // A table that the queue created for its count alone is no header table of the producer's.
        let own = if own.header_names().next().is_none() {
            Self(without_headers(&own.0))
        } else {
            own
        };
        (own, count)
    }

    /// For publishing: persistent, as everything that the dispatcher publishes is.
    pub(super) fn into_persistent(self) -> BasicProperties {
        self.0.with_delivery_mode(2)
    }

    pub(super) fn raw(&self) -> &BasicProperties {
        &self.0
    }

    fn headers(&self) -> Option<&FieldTable> {
        self.0.headers().as_ref()
    }

    fn with_value(self, name: &str, value: AMQPValue) -> Self {
        let Ok(name) = ShortString::try_new(name) else {
            return self;
        };
        let mut table = self.headers().cloned().unwrap_or_default();
        table.insert(name, value);
        Self(self.0.with_headers(table))
    }

    fn with_short(self, value: &str, set: impl Fn(BasicProperties, ShortString) -> BasicProperties) -> Self {
        match ShortString::try_new(value) {
            Ok(value) => Self(set(self.0, value)),
            Err(_) => self,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let wire = wire_form(&self.0);
        // Writing into memory can't fail.
        gen_properties(&wire)(Vec::new().into()).map_or_else(|_| Vec::new(), |context| context.into_inner().0)
    }
}

impl From<BasicProperties> for Properties {
    fn from(properties: BasicProperties) -> Self {
        Self(properties)
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Properties")
            .field("message_id", &self.message_id())
            .field("headers", &self.header_names().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// lapin can hold a short string as a header's value, the wire can't: it is written as a long one.
fn wire_form(properties: &BasicProperties) -> BasicProperties {
    fn value(v: &AMQPValue) -> AMQPValue {
        match v {
            AMQPValue::ShortString(s) => AMQPValue::LongString(LongString::from(s.as_str())),
            AMQPValue::FieldArray(a) => {
                AMQPValue::FieldArray(a.as_slice().iter().map(value).collect::<Vec<_>>().into())
            }
            AMQPValue::FieldTable(t) => AMQPValue::FieldTable(table(t)),
            other => other.clone(),
        }
    }
    fn table(t: &FieldTable) -> FieldTable {
        t.into_iter()
            .map(|(k, v)| (k.clone(), value(v)))
            .collect::<BTreeMap<_, _>>()
            .into()
    }
    match properties.headers() {
        Some(headers) => properties.clone().with_headers(table(headers)),
        None => properties.clone(),
    }
}

/// A copy in which the header table is absent, which lapin has no setter for.
fn without_headers(properties: &BasicProperties) -> BasicProperties {
    rebuild(properties, None, &|_| false)
}

/// A copy without some of the short string properties.
fn without_short(properties: &BasicProperties, drop: impl Fn(&str) -> bool) -> BasicProperties {
    rebuild(properties, properties.headers().clone(), &drop)
}

fn rebuild(p: &BasicProperties, headers: Option<FieldTable>, drop: &dyn Fn(&str) -> bool) -> BasicProperties {
    type Set = fn(BasicProperties, ShortString) -> BasicProperties;
    let shorts: [(&str, &Option<ShortString>, Set); 10] = [
        ("content_type", p.content_type(), BasicProperties::with_content_type),
        (
            "content_encoding",
            p.content_encoding(),
            BasicProperties::with_content_encoding,
        ),
        (
            "correlation_id",
            p.correlation_id(),
            BasicProperties::with_correlation_id,
        ),
        ("reply_to", p.reply_to(), BasicProperties::with_reply_to),
        ("expiration", p.expiration(), BasicProperties::with_expiration),
        ("message_id", p.message_id(), BasicProperties::with_message_id),
        ("type", p.kind(), BasicProperties::with_type),
        ("user_id", p.user_id(), BasicProperties::with_user_id),
        ("app_id", p.app_id(), BasicProperties::with_app_id),
        ("cluster_id", p.cluster_id(), BasicProperties::with_cluster_id),
    ];
    let mut copy = BasicProperties::default();
    for (name, value, set) in shorts {
        if let Some(value) = value.clone().filter(|_| !drop(name)) {
            copy = set(copy, value);
        }
    }
    if let Some(headers) = headers {
        copy = copy.with_headers(headers);
    }
    if let Some(mode) = *p.delivery_mode() {
        copy = copy.with_delivery_mode(mode);
    }
    if let Some(priority) = *p.priority() {
        copy = copy.with_priority(priority);
    }
    if let Some(timestamp) = *p.timestamp() {
        copy = copy.with_timestamp(timestamp);
    }
    copy
}

fn is_illegible(text: &ShortString) -> bool {
    text.as_str().bytes().any(|byte| byte == SUBSTITUTE)
}

/// Whether a name inside of a value is illegible.
fn holds_illegible(value: &AMQPValue) -> bool {
    match value {
        AMQPValue::ShortString(text) => is_illegible(text),
        AMQPValue::FieldTable(table) => table
            .into_iter()
            .any(|(name, value)| is_illegible(name) || holds_illegible(value)),
        AMQPValue::FieldArray(array) => array.as_slice().iter().any(holds_illegible),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::{ByteArray, DecimalValue, FieldArray};
    use proptest::prelude::*;

    use super::*;

    fn short() -> impl Strategy<Value = ShortString> {
        "\\PC{0,60}".prop_map(|s| ShortString::try_new(s).unwrap_or_default())
    }

    fn value() -> impl Strategy<Value = AMQPValue> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(AMQPValue::Boolean),
            any::<i8>().prop_map(AMQPValue::ShortShortInt),
            any::<u8>().prop_map(AMQPValue::ShortShortUInt),
            any::<i16>().prop_map(AMQPValue::ShortInt),
            any::<u16>().prop_map(AMQPValue::ShortUInt),
            any::<i32>().prop_map(AMQPValue::LongInt),
            any::<u32>().prop_map(AMQPValue::LongUInt),
            any::<i64>().prop_map(AMQPValue::LongLongInt),
            any::<u64>().prop_map(AMQPValue::Timestamp),
            any::<f32>()
                .prop_filter("NaN is never equal", |v| !v.is_nan())
                .prop_map(AMQPValue::Float),
            any::<f64>()
                .prop_filter("NaN is never equal", |v| !v.is_nan())
                .prop_map(AMQPValue::Double),
            (any::<u8>(), any::<u32>())
                .prop_map(|(scale, value)| AMQPValue::DecimalValue(DecimalValue { scale, value })),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(|v| AMQPValue::LongString(v.into())),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(|v| AMQPValue::ByteArray(ByteArray::from(v))),
            Just(AMQPValue::Void),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|v| AMQPValue::FieldArray(FieldArray::from(v))),
                prop::collection::btree_map(short(), inner, 0..4)
                    .prop_map(|m| AMQPValue::FieldTable(FieldTable::from(m))),
            ]
        })
    }

    fn properties() -> impl Strategy<Value = Properties> {
        let shorts = prop::collection::vec(prop::option::of(short()), 10);
        let table = prop::option::of(prop::collection::btree_map(short(), value(), 0..6));
        let numbers = (any::<Option<u8>>(), any::<Option<u8>>(), any::<Option<u64>>());
        (shorts, table, numbers).prop_map(|(s, table, (mode, priority, timestamp))| {
            type Set = fn(BasicProperties, ShortString) -> BasicProperties;
            let setters: [Set; 10] = [
                BasicProperties::with_content_type,
                BasicProperties::with_content_encoding,
                BasicProperties::with_correlation_id,
                BasicProperties::with_reply_to,
                BasicProperties::with_expiration,
                BasicProperties::with_message_id,
                BasicProperties::with_type,
                BasicProperties::with_user_id,
                BasicProperties::with_app_id,
                BasicProperties::with_cluster_id,
            ];
            let mut p = BasicProperties::default();
            for (set, value) in setters.into_iter().zip(s) {
                if let Some(value) = value {
                    p = set(p, value);
                }
            }
            if let Some(table) = table {
                p = p.with_headers(FieldTable::from(table));
            }
            if let Some(v) = mode {
                p = p.with_delivery_mode(v);
            }
            if let Some(v) = priority {
                p = p.with_priority(v);
            }
            if let Some(v) = timestamp {
                p = p.with_timestamp(v);
            }
            Properties(p)
        })
    }

    proptest! {
        #[test]
        fn bytes_and_back_is_the_identity_for_every_field_type(properties in properties()) {
            let bytes = properties.to_bytes();
            prop_assert_eq!(bytes.len(), properties.wire_len() + 1);
            let back = Properties::from_bytes(&bytes).unwrap();
            prop_assert!(back == properties);
        }

        #[test]
        fn damaged_bytes_are_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut framed = vec![FORMAT];
            framed.extend(&bytes);
            if let Ok(read) = Properties::from_bytes(&framed) {
                prop_assert!(Properties::from_bytes(&read.to_bytes()).is_ok());
            }
        }

        #[test]
        fn a_republished_message_keeps_every_value_and_carries_nothing_that_the_broker_acts_on(
            properties in properties()
        ) {
            let kept = properties.for_republishing("us");
            prop_assert!(kept.expiration().is_none());
            prop_assert!(kept.user_id().is_none_or(|user| user == "us"));
            prop_assert_eq!(kept.message_id(), properties.message_id());
            prop_assert_eq!(kept.timestamp(), properties.timestamp());
            let saved = kept.header("x-im-original-expiration");
            prop_assert_eq!(saved.as_deref(), properties.expiration());
        }
    }

    #[test]
    fn nan_survives_bit_by_bit() {
        let odd = f64::from_bits(0x7ff8_0000_dead_beef);
        let properties = Properties::new().with_value("odd", AMQPValue::Double(odd));
        let back = Properties::from_bytes(&properties.to_bytes()).unwrap();
        let Some(AMQPValue::Double(read)) = back.headers().unwrap().inner().get("odd") else {
            panic!("lost")
        };
        assert_eq!(read.to_bits(), odd.to_bits());
    }

    #[test]
    fn carbon_copies_are_kept_as_text_and_not_routed() {
        let cc = AMQPValue::FieldArray(vec![AMQPValue::LongString("im.jobs.high".into())].into());
        let kept = Properties::new().with_value("CC", cc.clone()).for_republishing("guest");
        assert_eq!(kept.header_names().collect::<Vec<_>>(), ["x-im-original-cc"]);
        assert_eq!(kept.headers().unwrap().inner().get("x-im-original-cc"), Some(&cc));
    }

    #[test]
    fn the_delivery_count_is_the_queues_and_not_the_producers() {
        let raw = Properties::new()
            .with_header_i64("x-delivery-count", 3)
            .with_message_id("j");
        let (own, count) = Properties::from_delivery(raw.0);
        assert_eq!(count, Some(3));
        assert_eq!(own, Properties::new().with_message_id("j"));
    }

    #[test]
    fn debug_output_has_no_header_value() {
        let text = format!("{:?}", Properties::new().with_header("authorization", "marked"));
        assert!(text.contains("authorization") && !text.contains("marked"));
    }

    #[test]
    fn a_value_that_is_too_long_for_a_short_string_is_left_out_rather_than_a_panic() {
        assert_eq!(Properties::new().with_message_id(&"é".repeat(128)).message_id(), None);
    }
}

//! serde's derived types read from a [`Node`]. Every refusal is worded here, by the type that was asked for.

use std::{borrow::Cow, vec};

use serde::{
    de::{self, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor},
    forward_to_deserialize_any,
};

use super::{Fault, Node, fault::one_of, tree::Field};

/// Whole numbers up to here are exact in a JSON number written with a fraction or an exponent (2^53).
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Reads a type from a tree.
pub(crate) fn from_node<'de, T: de::Deserialize<'de>>(node: Node<'de>) -> Result<T, Fault> {
    T::deserialize(Source(node))
}

/// A tree as serde reads it.
struct Source<'de>(Node<'de>);

impl Source<'_> {
    fn refuse<T>(&self, what: &str) -> Result<T, Fault> {
        Err(Fault::new(match self.0 {
            Node::Null => format!("must be {what}, not null: leave the field out instead"),
            ref other => format!("must be {what}, not {}", other.kind()),
        }))
    }

    /// A whole number from `min` to `max`. `1.0` and `1e3` are whole, as JSON Schema has it.
    fn integer(&self, min: i128, max: i128) -> Result<i128, Fault> {
        let number = match self.0 {
            Node::Unsigned(number) => i128::from(number),
            Node::Signed(number) => i128::from(number),
            Node::Float(number) if number.fract() == 0.0 && number.abs() <= EXACT => number as i128,
            Node::Float(_) => i128::MAX,
            _ => return self.refuse("a whole number"),
        };
        if (min..=max).contains(&number) {
            Ok(number)
        } else {
            Err(Fault::new(format!("must be a whole number from {min} to {max}")))
        }
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty),+ $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            let number = self.integer(i128::from(<$type>::MIN), i128::from(<$type>::MAX))?;
            visitor.$visit(number as $type)
        })+
    };
}

impl<'de> de::Deserializer<'de> for Source<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Node::Null => visitor.visit_unit(),
            Node::Bool(value) => visitor.visit_bool(value),
            Node::Unsigned(value) => visitor.visit_u64(value),
            Node::Signed(value) => visitor.visit_i64(value),
            Node::Float(value) => visitor.visit_f64(value),
            Node::Text(Cow::Borrowed(value)) => visitor.visit_borrowed_str(value),
            Node::Text(Cow::Owned(value)) => visitor.visit_string(value),
            Node::Array(entries) => visitor.visit_seq(Entries::new(entries)),
            Node::Object(fields) => visitor.visit_map(Fields::new(fields)),
        }
    }

    integers! {
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
        deserialize_i8 visit_i8 i8,
        deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64,
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Node::Unsigned(_) | Node::Signed(_) | Node::Float(_) => self.deserialize_any(visitor),
            _ => self.refuse("a number"),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Node::Bool(value) => visitor.visit_bool(value),
            _ => self.refuse("true or false"),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Node::Text(_) => self.deserialize_any(visitor),
            _ => self.refuse("a string"),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    /// An optional field is there or left out; null is neither. A producer whose variable is empty would otherwise
    /// send as someone else (`from`) or revoke a whole job (`to`).
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Node::Null => Err(Fault::new("must not be null: leave the field out instead")),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Node::Array(_) => self.deserialize_any(visitor),
            _ => self.refuse("an array"),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Node::Object(_) => self.deserialize_any(visitor),
            _ => self.refuse("an object"),
        }
    }

    /// The first field that a struct names is handed over first, so that a tag is read before what it tags.
    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if let (Node::Object(fields), Some(first)) = (&mut self.0, names.first())
            && let Some(place) = fields.iter().position(|(name, _)| name == first)
        {
            fields.swap(0, place);
        }
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.0 {
            Node::Text(word) => visitor.visit_enum(Word(word)),
            _ => Err(Fault::new(one_of(variants))),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        i128 u128 bytes byte_buf unit unit_struct tuple tuple_struct ignored_any
    }
}

/// An array's entries; an error gets the entry's number.
struct Entries<'de> {
    entries: vec::IntoIter<Node<'de>>,
    next: usize,
}

impl<'de> Entries<'de> {
    fn new(entries: Vec<Node<'de>>) -> Self {
        Self {
            entries: entries.into_iter(),
            next: 0,
        }
    }
}

impl<'de> SeqAccess<'de> for Entries<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(entry) = self.entries.next() else {
            return Ok(None);
        };
        let index = self.next;
        self.next += 1;
        seed.deserialize(Source(entry))
            .map(Some)
            .map_err(|fault| fault.at_index(index))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

/// An object's fields; an error in a value gets the field's name.
struct Fields<'de> {
    fields: vec::IntoIter<Field<'de>>,
    value: Option<Field<'de>>,
}

impl<'de> Fields<'de> {
    fn new(fields: Vec<Field<'de>>) -> Self {
        Self {
            fields: fields.into_iter(),
            value: None,
        }
    }
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((key, value)) = self.fields.next() else {
            return Ok(None);
        };
        // Visitors of a key want it borrowed or not at all; a key with escapes is rare, so its copy doesn't matter.
        let read = match &key {
            Cow::Borrowed(key) => seed.deserialize(de::value::BorrowedStrDeserializer::new(key))?,
            Cow::Owned(key) => seed.deserialize(key.as_str().into_deserializer())?,
        };
        self.value = Some((key, value));
        Ok(Some(read))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some((key, value)) = self.value.take() else {
            return Err(Fault::new("a value was asked for before its key"));
        };
        seed.deserialize(Source(value)).map_err(|fault| fault.at(&key))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.fields.len())
    }
}

/// A word that stands for a variant.
struct Word<'de>(Cow<'de, str>);

impl<'de> EnumAccess<'de> for Word<'de> {
    type Error = Fault;
    type Variant = UnitVariant;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, UnitVariant), Fault> {
        let read = match self.0 {
            Cow::Borrowed(word) => seed.deserialize(de::value::BorrowedStrDeserializer::new(word))?,
            Cow::Owned(word) => seed.deserialize(word.into_deserializer())?,
        };
        Ok((read, UnitVariant))
    }
}

/// The variants here carry nothing.
struct UnitVariant;

impl<'de> VariantAccess<'de> for UnitVariant {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Fault> {
        Err(Fault::new("must be a word without contents"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Fault> {
        Err(Fault::new("must be a word without contents"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Fault> {
        Err(Fault::new("must be a word without contents"))
    }
}

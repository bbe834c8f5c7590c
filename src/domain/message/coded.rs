//! Numbers of the IM API that stand for a choice. A number outside the documented ones is refused by name.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An enum that travels as a number.
macro_rules! coded {
    ($(#[$doc:meta])* $name:ident, $rule:literal { $($(#[$variant_doc:meta])* $variant:ident = $code:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant),+
        }

        impl $name {
            /// The number on the wire.
            pub const fn code(self) -> u8 {
                match self {
                    $(Self::$variant => $code),+
                }
            }

            /// The choice that a number stands for.
            pub const fn from_code(code: u64) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_u8(self.code())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;

                impl de::Visitor<'_> for Visitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($rule)
                    }

                    fn visit_u64<E: de::Error>(self, code: u64) -> Result<$name, E> {
                        $name::from_code(code).ok_or_else(|| E::custom(concat!("must be ", $rule)))
                    }

                    fn visit_i64<E: de::Error>(self, _: i64) -> Result<$name, E> {
                        Err(E::custom(concat!("must be ", $rule)))
                    }
                }

                deserializer.deserialize_u64(Visitor)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"enum": [$($code),+]})
            }
        }
    };
}

coded! {
    /// A switch that the API spells 0 or 1.
    Flag, "0 or 1" {
        /// 0.
        Zero = 0,
        /// 1.
        One = 1,
    }
}

coded! {
    /// `Download_Flag`, `VideoDownloadFlag`, `ThumbDownloadFlag`: how a client gets the file. Only 2 is allowed.
    UrlFlag, "2, the only download flag" {
        /// 2: from the given URL.
        Url = 2,
    }
}

coded! {
    /// `ImageFormat`.
    ImageFormat, "1 (JPG), 2 (GIF), 3 (PNG), 4 (BMP) or 255 (other)" {
        /// 1.
        Jpg = 1,
        /// 2.
        Gif = 2,
        /// 3.
        Png = 3,
        /// 4.
        Bmp = 4,
        /// 255.
        Other = 255,
    }
}

coded! {
    /// Type of an entry of `ImageInfoArray`.
    ImageType, "1 (original), 2 (large) or 3 (thumbnail)" {
        /// 1.
        Original = 1,
        /// 2.
        Large = 2,
        /// 3.
        Thumbnail = 3,
    }
}

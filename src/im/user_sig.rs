//! How is a UserSig made, and is one valid? (im-api "UserSig": HMAC-SHA256, version 2.0.)
//!
//! Pure functions of their arguments: nothing here knows the clock, the client or the configuration.

use std::{borrow::Cow, fmt, io::Read};

use base64::{
    Engine,
    alphabet::{Alphabet, Symbol},
    engine::{
        DecodePaddingMode,
        general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD},
    },
};
use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::domain::SdkAppId;

/// The version word of the JSON object.
const VERSION: &str = "2.0";

/// The most bytes that a UserSig may inflate to. A real one has about 200; the bound keeps a hostile one from being
/// blown up in memory.
const MAX_INFLATED: u64 = 16 * 1024;

/// Tencent's alphabet: standard base64 with `+` as `*`, `/` as `-` and the padding `=` as `_`. It isn't the URL-safe
/// alphabet, and none of its characters needs percent-encoding in a query.
const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &alphabet(),
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const fn alphabet() -> Alphabet {
    let Some(padding) = Symbol::new(b'_') else {
        panic!("`_` is printable ASCII")
    };
    match Alphabet::new_with_padding(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789*-",
        padding,
    ) {
        Ok(alphabet) => alphabet,
        Err(_) => panic!("64 different printable characters without the padding"),
    }
}

/// A UserSig: whoever has it acts as its account until it expires, so it prints as `[redacted]`.
#[derive(Clone, PartialEq, Eq)]
pub struct UserSig(String);

impl UserSig {
    /// The signature itself, for the URL's `usersig` or for the command that prints one.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for UserSig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserSig([redacted])")
    }
}

impl fmt::Display for UserSig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What a valid UserSig says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The account that it was made for.
    pub identifier: String,
    /// The app that it was made for.
    pub sdk_app_id: SdkAppId,
    /// When it was made, in Unix seconds.
    pub time: u64,
    /// How long it is valid from then, in seconds.
    pub expire: u64,
    /// Data that the signer added; IM needs none.
    pub userbuf: Option<Vec<u8>>,
}

/// Why a UserSig isn't valid, with the code that the service answers for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SigError {
    /// There is none (70002).
    #[error("the UserSig is empty")]
    Empty,
    /// Not base64 in Tencent's alphabet (70003).
    #[error("the UserSig is not base64 in its own alphabet: check that it was neither cut off nor changed")]
    Base64,
    /// Not a whole zlib stream, or one of unreasonable size (70003).
    #[error("the UserSig does not inflate: check that it was not cut off")]
    Zlib,
    /// Not the JSON object of version 2.0 (70003).
    #[error("the UserSig is not the JSON object of version 2.0")]
    Json,
    /// Signed with another key (70009).
    #[error("the UserSig was signed with another key")]
    Signature,
    /// No longer valid (70001).
    #[error("the UserSig has expired")]
    Expired,
}

impl SigError {
    /// The code that im-api documents for it.
    pub const fn code(self) -> i32 {
        match self {
            Self::Empty => 70002,
            Self::Base64 | Self::Zlib | Self::Json => 70003,
            Self::Signature => 70009,
            Self::Expired => 70001,
        }
    }
}

/// The JSON object inside.
#[derive(Serialize, Deserialize)]
struct Document<'a> {
    #[serde(rename = "TLS.ver")]
    version: Cow<'a, str>,
    #[serde(rename = "TLS.identifier")]
    identifier: Cow<'a, str>,
    #[serde(rename = "TLS.sdkappid")]
    sdk_app_id: u64,
    #[serde(rename = "TLS.expire")]
    expire: u64,
    #[serde(rename = "TLS.time")]
    time: u64,
    #[serde(rename = "TLS.userbuf", default, skip_serializing_if = "Option::is_none")]
    userbuf: Option<Cow<'a, str>>,
    #[serde(rename = "TLS.sig")]
    sig: Cow<'a, str>,
}

/// The keyed hash over the lines of the document, each ended by one `\n`. The key is the secret's own text, not what
/// its hex digits stand for.
fn mac(
    secret: &SecretString,
    identifier: &str,
    sdk_app_id: u64,
    time: u64,
    expire: u64,
    userbuf: Option<&str>,
) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()).expect("HMAC takes any key");
    let mut text =
        format!("TLS.identifier:{identifier}\nTLS.sdkappid:{sdk_app_id}\nTLS.time:{time}\nTLS.expire:{expire}\n");
    if let Some(userbuf) = userbuf {
        text.push_str("TLS.userbuf:");
        text.push_str(userbuf);
        text.push('\n');
    }
    mac.update(text.as_bytes());
    mac
}

/// Signs a UserSig for `identifier` in an app. `time` is in Unix seconds, `expire` a duration in seconds: it is valid
/// while now ≤ `time + expire`.
///
/// The zlib level is 0, as in the official Go SDK: the content is a hash, a number and a name, so packing it saves
/// next to nothing. The same arguments give the same signature.
pub fn sign(sdk_app_id: SdkAppId, identifier: &str, secret: &SecretString, time: u64, expire: u64) -> UserSig {
    sign_with_userbuf(sdk_app_id, identifier, secret, time, expire, None)
}

fn sign_with_userbuf(
    sdk_app_id: SdkAppId,
    identifier: &str,
    secret: &SecretString,
    time: u64,
    expire: u64,
    userbuf: Option<&[u8]>,
) -> UserSig {
    let userbuf = userbuf.map(|bytes| STANDARD.encode(bytes));
    let digest = mac(secret, identifier, sdk_app_id.0, time, expire, userbuf.as_deref())
        .finalize()
        .into_bytes();
    let document = Document {
        version: VERSION.into(),
        identifier: identifier.into(),
        sdk_app_id: sdk_app_id.0,
        expire,
        time,
        userbuf: userbuf.map(Into::into),
        sig: STANDARD.encode(digest).into(),
    };
    UserSig(ENGINE.encode(pack(&document)))
}

fn pack(document: &Document<'_>) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::with_capacity(256), Compression::none());
    serde_json::to_writer(&mut encoder, document).expect("the document is plain JSON in memory");
    encoder.finish().expect("a Vec takes every byte")
}

/// Checks a UserSig against an app's secret at the Unix second `now`, and says whom it was made for. Whether that is
/// the account and the app of the request is for the caller to compare (70013, 70014).
///
/// A `time` ahead of `now` is accepted: what the service tolerates there is not documented.
pub fn verify(sig: &str, secret: &SecretString, now: u64) -> Result<Claims, SigError> {
    if sig.is_empty() {
        return Err(SigError::Empty);
    }
    let packed = ENGINE.decode(sig).map_err(|_| SigError::Base64)?;
    let mut text = Vec::with_capacity(256);
    ZlibDecoder::new(packed.as_slice())
        .take(MAX_INFLATED)
        .read_to_end(&mut text)
        .map_err(|_| SigError::Zlib)?;
    if text.len() as u64 == MAX_INFLATED {
        return Err(SigError::Zlib);
    }
    let document: Document<'_> = serde_json::from_slice(&text).map_err(|_| SigError::Json)?;
    if document.version != VERSION {
        return Err(SigError::Json);
    }
    let digest = STANDARD
        .decode(document.sig.as_bytes())
        .map_err(|_| SigError::Signature)?;
    let userbuf = document.userbuf.as_deref();
    mac(
        secret,
        &document.identifier,
        document.sdk_app_id,
        document.time,
        document.expire,
        userbuf,
    )
    .verify_slice(&digest)
    .map_err(|_| SigError::Signature)?;
    if now > document.time.saturating_add(document.expire) {
        return Err(SigError::Expired);
    }
    Ok(Claims {
        identifier: document.identifier.into_owned(),
        sdk_app_id: SdkAppId(document.sdk_app_id),
        time: document.time,
        expire: document.expire,
        userbuf: userbuf
            .map(|text| STANDARD.decode(text))
            .transpose()
            .map_err(|_| SigError::Json)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const APP: SdkAppId = SdkAppId(1_400_000_000);

    /// The key of the public README sample (im-api, vectors).
    fn key() -> SecretString {
        "5bd2850fff3ecb11d7c805251c51ee463a25727bddc2385f3fa8bfee1bb93b5e".into()
    }

    fn inflate(sig: &str) -> serde_json::Value {
        let mut text = String::new();
        ZlibDecoder::new(ENGINE.decode(sig).unwrap().as_slice())
            .read_to_string(&mut text)
            .unwrap();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn documented_vectors_give_the_documented_hash() {
        let abc: Option<&[u8]> = Some(b"abc");
        let cases = [
            (
                "0",
                1_569_910_200_000,
                15_552_000_000,
                None,
                "bEj7EPKeOGh/DZ+LevCNXjSrLtgjj+lC8Ed0uirJXYU=",
            ),
            (
                "0",
                1_569_910_200_000,
                15_552_000_000,
                abc,
                "sWtbl2+lkv1DcoBF2Y2IWjGB44KoDgDIFxdhzwVXo2Q=",
            ),
            (
                "xiaojun",
                1_700_000_000,
                15_552_000,
                None,
                "LvA7d/Iw7gSsnskvVzBDPOCCDbuNCw4GHwTC0bip+B4=",
            ),
            (
                "administrator",
                1_700_000_000,
                86_400,
                None,
                "yLAe+w7WUeUuqbV9h/TX78u21oTGi+i9Zp1u3PpnY60=",
            ),
        ];
        for (identifier, time, expire, userbuf, hash) in cases {
            let sig = sign_with_userbuf(APP, identifier, &key(), time, expire, userbuf);
            let document = inflate(sig.expose());
            assert_eq!(document["TLS.sig"], hash, "{identifier}");
            assert_eq!(document["TLS.ver"], "2.0");
            assert_eq!(document["TLS.identifier"], identifier);
            assert_eq!(document["TLS.sdkappid"], 1_400_000_000_u64);
            assert_eq!(document["TLS.time"], time);
            assert_eq!(document["TLS.expire"], expire);
            assert_eq!(document.get("TLS.userbuf").is_some(), userbuf.is_some());
            let claims = verify(sig.expose(), &key(), time).unwrap();
            assert_eq!(claims.userbuf.as_deref(), userbuf);
        }
    }

    #[test]
    fn whole_strings_of_other_signers_are_decoded_and_verified() {
        let sdk = "eJyrVgrxCdYrSy1SslIy0jNQ0gHzM1NS80oy0zLBwjDB4pTsxIKCzBQlK0MTAyiAyKRWFGQWpQLFTU1NjZAlSjJzwcJmlpaGBkZIEsWZ6UCTk1yzzF0DvFP93TP0XaK0fVLLnP0isoKLfErSs7K0c5wtXFMMSjOLvCIiQ22VagHjLDB3";
        let claims = verify(sdk, &key(), 1_569_910_200_000).unwrap();
        assert_eq!(claims.identifier, "0");
        assert_eq!(claims.sdk_app_id, APP);
        assert_eq!((claims.time, claims.expire), (1_569_910_200_000, 15_552_000_000));

        let computed = "eJyrVgrxCdYrSy1SslJQMtIzUNJRAItkpqTmlWSmZUIkElNyM-Myi0uKEkvyi2BKilOyEwsKMlOACgxNDKAAKpdaUZBZlAqUsTAzgQuWZOaChAzN0RQXZ6aDLKn0cUzVLjcPD00NLS1MCrPM0A*JMLcoNTLMD3HP1M60jCowLDUOKMiLNDOwVaoFAD4PNPI_";
        let claims = verify(computed, &key(), 1_700_000_000).unwrap();
        assert_eq!(claims.identifier, "administrator");
        assert_eq!((claims.time, claims.expire), (1_700_000_000, 86_400));
    }

    #[test]
    fn it_is_valid_up_to_and_including_time_plus_expire() {
        let sig = sign(APP, "administrator", &key(), 1000, 180);
        assert!(verify(sig.expose(), &key(), 1180).is_ok());
        assert_eq!(verify(sig.expose(), &key(), 1181), Err(SigError::Expired));
    }

    #[test]
    fn every_way_of_being_invalid_has_its_documented_code() {
        let sig = sign(APP, "administrator", &key(), 1000, 180);
        let code = |sig: &str, secret: &SecretString| verify(sig, secret, 1000).unwrap_err().code();
        assert_eq!(code("", &key()), 70002);
        assert_eq!(code("not base64!", &key()), 70003);
        assert_eq!(code(&sig.expose()[..sig.expose().len() - 8], &key()), 70003);
        assert_eq!(code(&ENGINE.encode(b"no zlib"), &key()), 70003);
        assert_eq!(code(sig.expose(), &"another".into()), 70009);
        assert_eq!(verify(sig.expose(), &key(), 9999).unwrap_err().code(), 70001);
    }

    #[test]
    fn a_signature_that_inflates_without_end_is_refused() {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        std::io::Write::write_all(&mut encoder, &vec![b' '; 1 << 22]).unwrap();
        let bomb = ENGINE.encode(encoder.finish().unwrap());
        assert_eq!(verify(&bomb, &key(), 0), Err(SigError::Zlib));
    }

    #[test]
    fn a_signature_prints_as_redacted() {
        let sig = sign(APP, "administrator", &key(), 1000, 180);
        let printed = format!("{sig} {sig:?} {:?}", Some(&sig));
        assert!(!printed.contains(&sig.expose()[..16]), "{printed}");
        assert!(printed.contains("[redacted]"));
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies_and_no_other_key_does(
            identifier in "\\PC{1,32}", app in any::<u32>(), time in 0..u64::MAX / 2, expire in 0..u64::MAX / 2, secret in "\\PC{1,80}",
        ) {
            let secret = SecretString::from(secret);
            let sig = sign(SdkAppId(u64::from(app)), &identifier, &secret, time, expire);
            prop_assert!(sig.expose().bytes().all(|b| b.is_ascii_alphanumeric() || b"*-_".contains(&b)));
            let claims = verify(sig.expose(), &secret, time).unwrap();
            prop_assert_eq!(claims, Claims { identifier, sdk_app_id: SdkAppId(u64::from(app)), time, expire, userbuf: None });
            let other = SecretString::from(format!("{}x", secret.expose_secret()));
            prop_assert_eq!(verify(sig.expose(), &other, time), Err(SigError::Signature));
        }

        #[test]
        fn any_text_is_refused_without_a_panic(text in "\\PC{0,300}") {
            prop_assert!(verify(&text, &key(), 0).is_err());
        }
    }
}

//! Who is calling, and which command? The path, the five parameters of the URL and the UserSig.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::codes::{self, Refusal};
use crate::domain::Command;

/// The path before a command's name: one service for all seven.
const SERVICE: &str = "/v4/openim/";

/// The command of a path; 60009 if there is none.
pub(super) fn command(path: &str) -> Result<Command, Refusal> {
    let name = path.strip_prefix(SERVICE).ok_or(codes::NO_SUCH_COMMAND)?;
    Command::ALL
        .into_iter()
        .find(|command| command.as_str() == name)
        .ok_or(codes::NO_SUCH_COMMAND)
}

/// The URL's parameters, decoded and checked for form.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Params<'a> {
    pub(super) sdk_app_id: u64,
    pub(super) identifier: Cow<'a, str>,
    /// May be empty: that has a code of its own (70002), which the verification gives.
    pub(super) user_sig: Cow<'a, str>,
    pub(super) random: u32,
}

impl<'a> Params<'a> {
    /// Reads a query. Names and values are case-sensitive; unknown parameters are let through.
    pub(super) fn parse(query: &'a str) -> Result<Self, Refusal> {
        let (mut sdk_app_id, mut identifier, mut user_sig, mut random, mut content_type) =
            (None, None, None, None, None);
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let slot = match name {
                "sdkappid" => &mut sdk_app_id,
                "identifier" => &mut identifier,
                "usersig" => &mut user_sig,
                "random" => &mut random,
                "contenttype" => &mut content_type,
                _ => continue,
            };
            *slot = Some(decode(value)?);
        }
        let sdk_app_id = sdk_app_id.and_then(|id| id.parse().ok()).ok_or(codes::SDK_APP_ID)?;
        let random = random.and_then(|random| random.parse().ok()).ok_or(codes::HTTP)?;
        if content_type.as_deref() != Some("json") {
            return Err(codes::HTTP);
        }
        let identifier = identifier
            .filter(|identifier| !identifier.is_empty())
            .ok_or(codes::IDENTIFIER_MISSING)?;
        Ok(Self {
            sdk_app_id,
            identifier,
            user_sig: user_sig.unwrap_or_default(),
            random,
        })
    }
}

/// Percent-decodes a value (a plus stays a plus); 60002 if that isn't UTF-8.
fn decode(value: &str) -> Result<Cow<'_, str>, Refusal> {
    if value.contains('%') {
        percent_decode_str(value).decode_utf8().map_err(|_| codes::HTTP)
    } else {
        Ok(Cow::Borrowed(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(query: &str) -> i32 {
        Params::parse(query).err().map_or(0, |refusal| refusal.code)
    }

    #[test]
    fn each_parameter_is_required_and_checked() {
        let good = "sdkappid=1400000000&identifier=admin%40x&usersig=a*b-c_&random=4294967295&contenttype=json";
        let params = Params::parse(good).unwrap();
        assert_eq!(params.identifier, "admin@x");
        assert_eq!(
            (params.sdk_app_id, params.random, params.user_sig.as_ref()),
            (1_400_000_000, u32::MAX, "a*b-c_")
        );
        assert_eq!(code(&good.replace("sdkappid=1400000000", "")), 60012);
        assert_eq!(code(&good.replace("1400000000", "app")), 60012);
        assert_eq!(code(&good.replace("identifier=admin%40x", "")), 60004);
        assert_eq!(code(&good.replace("admin%40x", "%ff")), 60002);
        assert_eq!(code(&good.replace("random=4294967295", "")), 60002);
        assert_eq!(code(&good.replace("4294967295", "4294967296")), 60002);
        assert_eq!(code(&good.replace("contenttype=json", "")), 60002);
        assert_eq!(
            code(&good.replace("contenttype", "ContentType")),
            60002,
            "names are case-sensitive"
        );
        assert_eq!(Params::parse(&good.replace("a*b-c_", "")).unwrap().user_sig, "");
    }

    #[test]
    fn only_the_seven_commands_of_the_one_service_are_there() {
        for one in Command::ALL {
            assert_eq!(command(&format!("/v4/openim/{one}")), Ok(one));
        }
        for path in [
            "/",
            "/v4/openim/",
            "/v4/openim/SENDMSG",
            "/v4/group_open_http_svc/sendmsg",
            "/v4/openim/sendmsg/",
        ] {
            assert_eq!(command(path), Err(codes::NO_SUCH_COMMAND), "{path}");
        }
    }
}

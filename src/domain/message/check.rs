//! The rules of a message that its types can't say. Each fault is named by its path.

use std::io;

use serde::Serialize as _;
use serde_json::Value;

use super::{
    Element, ImageElement, LocationElement, MAX_BODY_BYTES, MAX_LIFE_TIME, Message, OfflinePush, RelayElement,
    RelayedMessage, VideoElement,
};
use crate::domain::{job::DecodeError, json::Fault};

/// The largest whole number that JSON carries exactly everywhere (2^53 - 1, RFC 7493).
const MAX_EXACT: u64 = 9_007_199_254_740_991;

impl Message {
    /// Checks every rule of the contract and of the IM API's documentation. A decoded job's message has passed; one
    /// that was put together in code should.
    pub fn check(&self) -> Result<(), DecodeError> {
        self.check_fields()
            .map_err(|fault| DecodeError::invalid_job(&fault.at("message")))
    }

    pub(crate) fn check_fields(&self) -> Result<(), Fault> {
        match (&self.text, &self.body) {
            (Some(_), Some(_)) => return Err(Fault::new("must not be given beside `text`").at("body")),
            (None, None) => return Err(Fault::new("must have `text` or `body`")),
            (None, Some(body)) => check_body(body, "body")?,
            (Some(_), None) => {}
        }
        let bytes = serialised_length(&self.elements());
        if bytes > MAX_BODY_BYTES {
            let field = if self.text.is_some() { "text" } else { "body" };
            let rule = format!("makes a MsgBody of {bytes} bytes as serialised, the limit is {MAX_BODY_BYTES}");
            return Err(Fault::new(rule).at(field));
        }
        if self.life_time.is_some_and(|seconds| seconds > MAX_LIFE_TIME) {
            return Err(Fault::new(format!("must be from 0 to {MAX_LIFE_TIME} seconds (7 days)")).at("life_time"));
        }
        if let Some(push) = &self.offline_push {
            push.check().map_err(|fault| fault.at("offline_push"))?;
        }
        check_distinct(self.forbid_callbacks.as_deref(), "forbid_callbacks")?;
        check_distinct(self.control.as_deref(), "control")
    }
}

fn check_distinct<T: PartialEq>(words: Option<&[T]>, field: &str) -> Result<(), Fault> {
    let words = words.unwrap_or_default();
    // Entries are counted here, not compared by a set: there are at most as many distinct words as variants.
    match words
        .iter()
        .enumerate()
        .find(|(index, word)| words.iter().take(*index).any(|earlier| earlier == *word))
    {
        Some((index, _)) => Err(Fault::new("is given twice").at_index(index).at(field)),
        None => Ok(()),
    }
}

/// Counts what would be written.
struct Counter(usize);

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The bytes of a `MsgBody` on the wire: compact JSON.
fn serialised_length(elements: &[Element]) -> usize {
    let mut counter = Counter(0);
    match elements.serialize(&mut serde_json::Serializer::new(&mut counter)) {
        Ok(()) => counter.0,
        // Counting can't fail and the types serialise always; if they didn't, the body could not be sent.
        Err(_) => usize::MAX,
    }
}

fn check_body(body: &[Element], field: &str) -> Result<(), Fault> {
    if body.is_empty() {
        return Err(Fault::new("must hold at least one element").at(field));
    }
    let mut has_custom = false;
    for (index, element) in body.iter().enumerate() {
        if matches!(element, Element::Custom(_)) && std::mem::replace(&mut has_custom, true) {
            return Err(Fault::new("must not be a second TIMCustomElem, a body has at most one")
                .at_index(index)
                .at(field));
        }
        element
            .check()
            .map_err(|fault| fault.at("MsgContent").at_index(index).at(field))?;
    }
    Ok(())
}

impl Element {
    fn check(&self) -> Result<(), Fault> {
        match self {
            Self::Text(_) => Ok(()),
            Self::Location(location) => location.check(),
            Self::Face(face) => check_any(face.index.is_some() || face.data.is_some(), "Index or Data"),
            Self::Custom(custom) => check_any(
                custom.data.is_some() || custom.desc.is_some() || custom.ext.is_some() || custom.sound.is_some(),
                "Data, Desc, Ext or Sound",
            ),
            Self::Sound(sound) => {
                check_filled(&sound.url, "Url")?;
                check_filled(&sound.uuid, "UUID")
            }
            Self::Image(image) => image.check(),
            Self::File(file) => {
                check_filled(&file.url, "Url")?;
                check_filled(&file.uuid, "UUID")?;
                check_exact(file.file_size, "FileSize")
            }
            Self::Video(video) => video.check(),
            Self::Relay(relay) => relay.check(),
        }
    }
}

fn check_any(given: bool, fields: &str) -> Result<(), Fault> {
    if given {
        Ok(())
    } else {
        Err(Fault::new(format!("must have {fields}")))
    }
}

fn check_filled(value: &str, field: &str) -> Result<(), Fault> {
    if value.is_empty() {
        return Err(Fault::new("must not be empty").at(field));
    }
    Ok(())
}

fn check_exact(value: Option<u64>, field: &str) -> Result<(), Fault> {
    if value.is_some_and(|value| value > MAX_EXACT) {
        return Err(Fault::new(format!("must be a whole number from 0 to {MAX_EXACT}")).at(field));
    }
    Ok(())
}

impl LocationElement {
    fn check(&self) -> Result<(), Fault> {
        // The ranges refuse what is not finite as well.
        if !(-90.0..=90.0).contains(&self.latitude) {
            return Err(Fault::new("must be from -90 to 90 degrees").at("Latitude"));
        }
        if !(-180.0..=180.0).contains(&self.longitude) {
            return Err(Fault::new("must be from -180 to 180 degrees").at("Longitude"));
        }
        Ok(())
    }
}

impl ImageElement {
    fn check(&self) -> Result<(), Fault> {
        check_filled(&self.uuid, "UUID")?;
        if self.image_info_array.is_empty() {
            return Err(Fault::new("must hold at least one entry").at("ImageInfoArray"));
        }
        for (index, info) in self.image_info_array.iter().enumerate() {
            check_filled(&info.url, "URL").map_err(|fault| fault.at_index(index).at("ImageInfoArray"))?;
        }
        Ok(())
    }
}

impl VideoElement {
    fn check(&self) -> Result<(), Fault> {
        check_filled(&self.video_url, "VideoUrl")?;
        check_filled(&self.video_uuid, "VideoUUID")?;
        check_exact(self.video_size, "VideoSize")?;
        let thumbnail = [
            ("ThumbUrl", self.thumb_url.is_some()),
            ("ThumbUUID", self.thumb_uuid.is_some()),
            ("ThumbDownloadFlag", self.thumb_download_flag.is_some()),
        ];
        if thumbnail.iter().any(|(_, given)| *given)
            && let Some((missing, _)) = thumbnail.iter().find(|(_, given)| !given)
        {
            return Err(Fault::new("is missing: the thumbnail's URL, UUID and flag go together").at(missing));
        }
        check_filled(self.thumb_url.as_deref().unwrap_or("-"), "ThumbUrl")?;
        check_filled(self.thumb_uuid.as_deref().unwrap_or("-"), "ThumbUUID")
    }
}

impl RelayElement {
    fn check(&self) -> Result<(), Fault> {
        match (&self.msg_list, &self.json_msg_key) {
            (Some(_), Some(_)) => Err(Fault::new("must not be given beside `MsgList`").at("JsonMsgKey")),
            (None, None) => Err(Fault::new("must have `MsgList` or `JsonMsgKey`")),
            (None, Some(key)) => check_filled(key, "JsonMsgKey"),
            (Some(list), None) if list.is_empty() => Err(Fault::new("must hold at least one message").at("MsgList")),
            (Some(list), None) => list
                .iter()
                .enumerate()
                .try_for_each(|(index, message)| message.check().map_err(|fault| fault.at_index(index).at("MsgList"))),
        }
    }
}

impl RelayedMessage {
    fn check(&self) -> Result<(), Fault> {
        match (&self.to_account, &self.group_id) {
            (Some(_), Some(_)) => return Err(Fault::new("must not be given beside `To_Account`").at("GroupId")),
            (None, None) => return Err(Fault::new("must have `To_Account` or `GroupId`")),
            (None, Some(group)) => check_filled(group, "GroupId")?,
            (Some(_), None) => {}
        }
        check_body(&self.msg_body, "MsgBody")
    }
}

impl OfflinePush {
    fn check(&self) -> Result<(), Fault> {
        match &self.ext {
            Some(ext) if serde_json::from_str::<Value>(ext).is_err() => {
                Err(Fault::new("must itself be JSON text").at("Ext"))
            }
            _ => Ok(()),
        }
    }
}

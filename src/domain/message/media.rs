//! Elements that point to a file. The REST API does not upload: the sender supplies URLs that clients can reach, a
//! UUID that is unique per file (an MD5 will do) and the download flag. The spellings differ as the API's do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ImageFormat, ImageType, UrlFlag};

/// `TIMSoundElem`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SoundElement {
    /// Where clients get the recording.
    #[serde(rename = "Url")]
    #[schemars(length(min = 1))]
    pub url: String,
    /// Unique per file.
    #[serde(rename = "UUID")]
    #[schemars(length(min = 1))]
    pub uuid: String,
    /// Bytes.
    #[serde(rename = "Size", default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
    /// Seconds.
    #[serde(rename = "Second", default, skip_serializing_if = "Option::is_none")]
    pub second: Option<u32>,
    /// Only 2.
    #[serde(rename = "Download_Flag")]
    pub download_flag: UrlFlag,
}

/// `TIMImageElem`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageElement {
    /// Unique per file.
    #[serde(rename = "UUID")]
    #[schemars(length(min = 1))]
    pub uuid: String,
    /// The picture's format.
    #[serde(rename = "ImageFormat", default, skip_serializing_if = "Option::is_none")]
    pub image_format: Option<ImageFormat>,
    /// The picture's sizes: original, large, thumbnail; at least one.
    #[serde(rename = "ImageInfoArray")]
    #[schemars(length(min = 1))]
    pub image_info_array: Vec<ImageInfo>,
}

/// An entry of `ImageInfoArray`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageInfo {
    /// Which size this is.
    #[serde(rename = "Type")]
    pub image_type: ImageType,
    /// Bytes.
    #[serde(rename = "Size", default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
    /// Pixels.
    #[serde(rename = "Width", default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Pixels.
    #[serde(rename = "Height", default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Where clients get it. Spelled `URL` here, unlike the other elements.
    #[serde(rename = "URL")]
    #[schemars(length(min = 1))]
    pub url: String,
}

/// `TIMFileElem`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileElement {
    /// Where clients get the file.
    #[serde(rename = "Url")]
    #[schemars(length(min = 1))]
    pub url: String,
    /// Unique per file.
    #[serde(rename = "UUID")]
    #[schemars(length(min = 1))]
    pub uuid: String,
    /// Bytes.
    #[serde(rename = "FileSize", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 9_007_199_254_740_991_u64))]
    pub file_size: Option<u64>,
    /// The name that clients show.
    #[serde(rename = "FileName", default, skip_serializing_if = "Option::is_none")]
    pub file_name: Option<String>,
    /// Only 2.
    #[serde(rename = "Download_Flag")]
    pub download_flag: UrlFlag,
}

/// `TIMVideoFileElem`. The thumbnail's URL, UUID and flag go together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("dependentRequired" = {
    "ThumbUrl": ["ThumbUUID", "ThumbDownloadFlag"],
    "ThumbUUID": ["ThumbUrl", "ThumbDownloadFlag"],
    "ThumbDownloadFlag": ["ThumbUrl", "ThumbUUID"],
}))]
pub struct VideoElement {
    /// Where clients get the video.
    #[serde(rename = "VideoUrl")]
    #[schemars(length(min = 1))]
    pub video_url: String,
    /// Unique per file.
    #[serde(rename = "VideoUUID")]
    #[schemars(length(min = 1))]
    pub video_uuid: String,
    /// Bytes.
    #[serde(rename = "VideoSize", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 9_007_199_254_740_991_u64))]
    pub video_size: Option<u64>,
    /// Seconds.
    #[serde(rename = "VideoSecond", default, skip_serializing_if = "Option::is_none")]
    pub video_second: Option<u32>,
    /// Such as `mp4`.
    #[serde(rename = "VideoFormat", default, skip_serializing_if = "Option::is_none")]
    pub video_format: Option<String>,
    /// Only 2.
    #[serde(rename = "VideoDownloadFlag")]
    pub video_download_flag: UrlFlag,
    /// Where clients get the thumbnail.
    #[serde(rename = "ThumbUrl", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub thumb_url: Option<String>,
    /// Unique per file.
    #[serde(rename = "ThumbUUID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub thumb_uuid: Option<String>,
    /// Bytes.
    #[serde(rename = "ThumbSize", default, skip_serializing_if = "Option::is_none")]
    pub thumb_size: Option<u32>,
    /// Pixels.
    #[serde(rename = "ThumbWidth", default, skip_serializing_if = "Option::is_none")]
    pub thumb_width: Option<u32>,
    /// Pixels.
    #[serde(rename = "ThumbHeight", default, skip_serializing_if = "Option::is_none")]
    pub thumb_height: Option<u32>,
    /// Such as `JPG`.
    #[serde(rename = "ThumbFormat", default, skip_serializing_if = "Option::is_none")]
    pub thumb_format: Option<String>,
    /// Only 2.
    #[serde(rename = "ThumbDownloadFlag", default, skip_serializing_if = "Option::is_none")]
    pub thumb_download_flag: Option<UrlFlag>,
}

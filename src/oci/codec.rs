//! How a layer is compressed: chosen when it is written, recognised when it is read.
//!
//! zstd is smaller and faster than gzip, but engines before 23 fail on it, so they get gzip.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::str::FromStr;

use flate2::bufread::MultiGzDecoder;
use zstd::zstd_safe::CParameter;

/// A layer's compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// A plain tar.
    Uncompressed,
    /// RFC 1952, as one or more members.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// A compression, and how much time it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    /// The format.
    pub codec: Codec,
    /// The level of that format; its default if there is none.
    pub level: Option<u32>,
}

/// zstd's own default: three times faster than gzip -6, and smaller.
const ZSTD_LEVEL: u32 = 3;
/// What one worker takes at a time, in bytes. Small, since each job in flight is held in memory.
const ZSTD_JOB: u32 = 2 << 20;
/// More workers would need more memory than we allow ourselves.
const MAX_WORKERS: usize = 8;
/// The largest window that we decode: 128 MiB, zstd's own limit without `--long`.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

impl Codec {
    /// The OCI media type of a layer with this compression.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Uncompressed => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// The compression that a layer's media type names; OCI's and Docker's names.
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        match media_type.rsplit(['.', '+']).next()? {
            "zstd" => Some(Self::Zstd),
            "gzip" => Some(Self::Gzip),
            "tar" => Some(Self::Uncompressed),
            _ => None,
        }
    }

    /// Starts to compress into `out` at the default level.
    pub fn encoder<W: Write + Send + 'static>(self, out: W) -> io::Result<Encoder<W>> {
        Compression::from(self).encoder(out)
    }

    /// The levels that a user may ask for. zstd's higher ones need more memory than builders give.
    fn levels(self) -> std::ops::RangeInclusive<u32> {
        match self {
            Self::Uncompressed => 0..=0,
            Self::Gzip => 1..=9,
            Self::Zstd => 1..=19,
        }
    }
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        Self { codec, level: None }
    }
}

impl Compression {
    /// Starts to compress into `out`, on all cores where the format allows it.
    pub fn encoder<W: Write + Send + 'static>(self, out: W) -> io::Result<Encoder<W>> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
        Ok(match self.codec {
            Codec::Uncompressed => Encoder::Uncompressed(out),
            Codec::Gzip => Encoder::Gzip(super::gzip::ParallelGzip::new(out, cores, self.level)),
            Codec::Zstd => {
                let level = i32::try_from(self.level.unwrap_or(ZSTD_LEVEL)).unwrap_or(i32::MAX);
                let mut encoder = zstd::Encoder::new(out, level)?;
                // With workers the output does not depend on their number.
                encoder.multithread(u32::try_from(cores).unwrap_or(1))?;
                encoder.set_parameter(CParameter::JobSize(ZSTD_JOB))?;
                encoder.include_checksum(true)?;
                Encoder::Zstd(Box::new(encoder))
            }
        })
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uncompressed => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, level) = match text.split_once(':') {
            Some((name, level)) => (name, Some(level)),
            None => (text, None),
        };
        let codec = [Codec::Zstd, Codec::Gzip, Codec::Uncompressed]
            .into_iter()
            .find(|codec| codec.to_string() == name)
            .ok_or_else(|| format!("`{name}` is no compression: use zstd, gzip or uncompressed"))?;
        let level = level.map(|level| {
            let number = level.parse().ok().filter(|level| codec.levels().contains(level));
            let (low, high) = codec.levels().into_inner();
            number.ok_or_else(|| {
                format!("`{level}` is no level of {codec}: they go from {low} to {high}")
            })
        });
        Ok(Self { codec, level: level.transpose()? })
    }
}

/// A writer that compresses what it is given; [`Encoder::finish`] must be called.
pub enum Encoder<W: Write> {
    /// Passes bytes on.
    Uncompressed(W),
    /// Compresses blocks on all cores.
    Gzip(super::gzip::ParallelGzip<W>),
    /// Compresses on all cores.
    Zstd(Box<zstd::Encoder<'static, W>>),
}

impl<W: Write> Encoder<W> {
    /// Writes what is left and gives the output back.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::Uncompressed(out) => Ok(out),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Uncompressed(out) => out.write(buffer),
            Self::Gzip(encoder) => encoder.write(buffer),
            Self::Zstd(encoder) => encoder.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Uncompressed(out) => out.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

/// Decompresses `input`, whose compression is recognised by its first bytes.
pub fn decoder<'a, R: Read + 'a>(input: R) -> io::Result<(Codec, Box<dyn Read + 'a>)> {
    let mut input = BufReader::with_capacity(256 * 1024, input);
    let head = input.fill_buf()?;
    if head.starts_with(&[0x1f, 0x8b]) {
        Ok((Codec::Gzip, Box::new(MultiGzDecoder::new(input))))
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut decoder = zstd::Decoder::with_buffer(input)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
        Ok((Codec::Zstd, Box::new(decoder)))
    } else {
        Ok((Codec::Uncompressed, Box::new(input)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        (0..3_000_000_u32).map(|i| i.wrapping_mul(i).to_le_bytes()[1]).collect()
    }

    #[test]
    fn every_codec_gives_back_what_it_was_given() {
        for codec in [Codec::Uncompressed, Codec::Gzip, Codec::Zstd] {
            for data in [Vec::new(), b"one".to_vec(), sample()] {
                let mut encoder = codec.encoder(Vec::new()).unwrap();
                encoder.write_all(&data).unwrap();
                let packed = encoder.finish().unwrap();
                let (_, mut decoder) = decoder(packed.as_slice()).unwrap();
                let mut back = Vec::new();
                decoder.read_to_end(&mut back).unwrap();
                assert!(back == data, "{codec}");
            }
        }
    }

    #[test]
    fn a_level_is_of_its_format() {
        for text in ["zstd", "zstd:19", "gzip:1", "uncompressed"] {
            let compression: Compression = text.parse().unwrap();
            let level = compression.level.map_or_else(String::new, |level| format!(":{level}"));
            assert_eq!(format!("{}{level}", compression.codec), text);
        }
        for text in ["", "lz4", "zstd:20", "gzip:0", "gzip:x", "uncompressed:1", "zstd:"] {
            assert!(text.parse::<Compression>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_higher_level_gives_a_smaller_blob() {
        for (fast, small) in [("zstd:1", "zstd:19"), ("gzip:1", "gzip:9")] {
            let size = |text: &str| {
                let compression: Compression = text.parse().unwrap();
                let mut encoder = compression.encoder(Vec::new()).unwrap();
                encoder.write_all(include_bytes!("codec.rs")).unwrap();
                encoder.finish().unwrap().len()
            };
            assert!(size(small) < size(fast), "{small}: {} of {}", size(small), size(fast));
        }
    }

    #[test]
    fn the_same_layer_gives_the_same_blob() {
        for codec in [Codec::Gzip, Codec::Zstd] {
            let pack = |chunk: usize| {
                let mut encoder = codec.encoder(Vec::new()).unwrap();
                for part in sample().chunks(chunk) {
                    encoder.write_all(part).unwrap();
                }
                encoder.finish().unwrap()
            };
            assert!(pack(1000) == pack(1_000_000), "{codec}");
        }
    }
}

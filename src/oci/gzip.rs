//! gzip on all cores: blocks compressed side by side, written in order as gzip members.
//!
//! RFC 1952 allows a file of several members, and every engine reads them as one stream.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use rayon::prelude::*;

/// Large enough that separate blocks cost less than one percent of size.
const BLOCK: usize = 1 << 20;

/// Compresses what is written to it; [`ParallelGzip::finish`] must be called.
pub struct ParallelGzip<W> {
    out: W,
    blocks: Vec<Vec<u8>>,
    batch: usize,
    level: Compression,
    wrote: bool,
}

impl<W: Write> ParallelGzip<W> {
    /// Compresses into `out` with up to `cores` blocks at a time; holds that many MiB.
    pub fn new(out: W, cores: usize, level: Option<u32>) -> Self {
        let level = level.map_or_else(Compression::default, Compression::new);
        Self { out, blocks: Vec::new(), batch: cores.max(1) * 2, level, wrote: false }
    }

    fn write_blocks(&mut self) -> io::Result<()> {
        let level = self.level;
        let packed: Vec<io::Result<Vec<u8>>> =
            self.blocks.par_iter().map(|block| member(block, level)).collect();
        self.blocks.clear();
        for block in packed {
            self.out.write_all(&block?)?;
            self.wrote = true;
        }
        Ok(())
    }

    /// Writes what is left and gives the output back.
    pub fn finish(mut self) -> io::Result<W> {
        self.write_blocks()?;
        if !self.wrote {
            self.out.write_all(&member(&[], self.level)?)?;
        }
        Ok(self.out)
    }
}

fn member(block: &[u8], level: Compression) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(block.len() / 2), level);
    encoder.write_all(block)?;
    encoder.finish()
}

impl<W: Write> Write for ParallelGzip<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if self.blocks.last().is_none_or(|block| block.len() == BLOCK) {
            if self.blocks.len() == self.batch {
                self.write_blocks()?;
            }
            self.blocks.push(Vec::with_capacity(BLOCK));
        }
        let Some(block) = self.blocks.last_mut() else {
            return Ok(0);
        };
        let n = buffer.len().min(BLOCK - block.len());
        block.extend_from_slice(&buffer[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

//! A file in pieces, to be sent with little memory.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use tokio::task::spawn_blocking;

/// Opens a file and gives it in pieces of `size` bytes; the last one is shorter.
pub(crate) fn pieces(path: &Path, size: u64) -> impl Stream<Item = io::Result<Bytes>> + use<> {
    let path = path.to_owned();
    stream::try_unfold(None, move |file: Option<File>| {
        let path = path.clone();
        async move {
            let read = move || -> io::Result<_> {
                let mut file = file.map_or_else(|| File::open(path), Ok)?;
                let mut piece = Vec::new();
                file.by_ref().take(size).read_to_end(&mut piece)?;
                Ok((!piece.is_empty()).then(|| (Bytes::from(piece), Some(file))))
            };
            spawn_blocking(read).await.map_err(io::Error::other)?
        }
    })
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;

    use super::*;

    #[tokio::test]
    async fn a_file_comes_in_full_pieces_and_a_rest() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (length, lengths) in [(0, vec![]), (8, vec![4, 4]), (10, vec![4, 4, 2])] {
            std::fs::write(file.path(), vec![7; length]).unwrap();
            let pieces: Vec<_> = pieces(file.path(), 4).try_collect().await.unwrap();
            assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), lengths);
        }
        assert!(pieces(Path::new("/absent"), 4).try_collect::<Vec<_>>().await.is_err());
    }
}

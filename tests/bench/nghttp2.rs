//! nghttp2's HPACK decoder, for comparison.

use std::hint::black_box;
use std::{mem, ptr};

use anyhow::{Context as _, Result, anyhow, ensure};
use libnghttp2_sys::{
    NGHTTP2_HD_INFLATE_EMIT, NGHTTP2_HD_INFLATE_FINAL, nghttp2_hd_inflate_del,
    nghttp2_hd_inflate_end_headers, nghttp2_hd_inflate_hd2, nghttp2_hd_inflate_new,
    nghttp2_hd_inflater, nghttp2_nv,
};

/// nghttp2's decoder, which is in C.
pub(crate) struct Inflater(*mut nghttp2_hd_inflater);

impl Inflater {
    pub(crate) fn new() -> Result<Self> {
        let mut inflater = ptr::null_mut();
        // SAFETY: it writes a pointer there.
        let status = unsafe { nghttp2_hd_inflate_new(&raw mut inflater) };
        ensure!(status == 0, "nghttp2_hd_inflate_new: {status}");
        Ok(Self(inflater))
    }

    pub(crate) fn decode(&mut self, mut block: &[u8]) -> Result<()> {
        loop {
            // SAFETY: a struct of pointers and numbers, for which zeros are valid.
            let mut field: nghttp2_nv = unsafe { mem::zeroed() };
            let mut flags = 0;
            let (field_to, flags_to) = (&raw mut field, &raw mut flags);
            // SAFETY: the block is as long as is said, and all of it.
            let read = unsafe {
                nghttp2_hd_inflate_hd2(self.0, field_to, flags_to, block.as_ptr(), block.len(), 1)
            };
            let read = usize::try_from(read).map_err(|_| anyhow!("nghttp2 refuses: {read}"))?;
            block = block.get(read..).context("more was read than there is")?;
            if flags as u32 & NGHTTP2_HD_INFLATE_FINAL != 0 {
                // SAFETY: a decoder, at a block's end.
                unsafe { nghttp2_hd_inflate_end_headers(self.0) };
                return Ok(());
            }
            ensure!(flags as u32 & NGHTTP2_HD_INFLATE_EMIT != 0, "a block without its end");
            black_box((field.name, field.value));
        }
    }
}

impl Drop for Inflater {
    fn drop(&mut self) {
        // SAFETY: a decoder, to which nothing else refers.
        unsafe { nghttp2_hd_inflate_del(self.0) };
    }
}

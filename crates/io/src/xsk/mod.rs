//! AF_XDP sockets.
use std::os::fd::BorrowedFd;
#[derive(Default)]
pub struct Sockets;
pub struct Received {
    pub ifindex: u32,
    pub queue: u32,
    pub metadata: [u8; 8],
    pub len: usize,
}
#[derive(Debug, thiserror::Error)]
#[error("none")]
pub struct XskError;
impl Sockets {
    pub fn bind(&mut self, _: u32, _: u32) -> Result<(), XskError> {
        Err(XskError)
    }
    pub fn is_bound(&self, _: u32, _: u32) -> bool {
        false
    }
    pub fn fd(&self, _: u32, _: u32) -> Option<BorrowedFd<'_>> {
        None
    }
    pub fn close(&mut self, _: u32) {}
    pub fn receive(&mut self, _: &mut [u8]) -> Option<Received> {
        None
    }
    pub fn send(&mut self, _: u32, _: &[u8]) -> bool {
        false
    }
    pub fn flush(&mut self) {}
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::empty()
    }
}

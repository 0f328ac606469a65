//! Where an entry sends its packets, in one word.

/// Where a direction's packets go, in one word that is replaced whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steer {
    /// Index of the adjacency.
    pub adjacency: u16,
    /// Port that packets must come in through.
    pub ingress: u8,
    /// What the kernel paths do.
    pub action: Action,
    /// Entry waits until packets of its flow have left user space.
    pub pending: bool,
    /// Programs in drivers pass the packets on: the path is that of the socket buffer.
    pub skb: bool,
    /// The gate's epoch (low four bits) that a pending entry was published under.
    pub epoch: u8,
    /// Generation of the policy that the entry was judged under: the one in force, or one that is about to be.
    pub policy_generation: u16,
    /// Generation of the adjacency.
    pub adjacency_generation: u16,
}

/// What the kernel paths do with a direction's packets.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Hand down: the flow lives on the user-level path.
    #[default]
    User = 0,
    /// Forward.
    Forward = 1,
    /// Leave to the kernel's stack.
    Stack = 2,
    /// Drop.
    Drop = 3,
}

impl Steer {
    /// The packed word.
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        self.adjacency as u64
            | (self.ingress as u64) << 16
            | (self.action as u64) << 24
            | (self.pending as u64) << 26
            | (self.skb as u64) << 27
            | ((self.epoch & 15) as u64) << 28
            | (self.policy_generation as u64) << 32
            | (self.adjacency_generation as u64) << 48
    }

    /// The fields of a packed word.
    #[inline(always)]
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        Self {
            adjacency: word as u16,
            ingress: (word >> 16) as u8,
            action: match (word >> 24) & 3 {
                0 => Action::User,
                1 => Action::Forward,
                2 => Action::Stack,
                _ => Action::Drop,
            },
            pending: word >> 26 & 1 != 0,
            skb: word >> 27 & 1 != 0,
            epoch: (word >> 28) as u8 & 15,
            policy_generation: (word >> 32) as u16,
            adjacency_generation: (word >> 48) as u16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steer_round_trips() {
        let steer = Steer {
            adjacency: 0xbeef,
            ingress: 0x42,
            action: Action::Drop,
            pending: true,
            skb: true,
            epoch: 9,
            policy_generation: 0x1234,
            adjacency_generation: 0xfedc,
        };
        assert_eq!(Steer::unpack(steer.pack()), steer);
        assert_eq!(Steer::unpack(0), Steer::default());
    }
}

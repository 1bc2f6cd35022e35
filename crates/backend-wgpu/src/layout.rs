//! Where parameters lie on the device: the canonical order, each tensor padded with zeros.

use nn::Parameters;

/// A tensor as a matrix and the larger one that it is the corner of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Padded {
    pub(crate) name: &'static str,
    /// Rows and columns.
    pub(crate) shape: [usize; 2],
    /// Rows and columns on the device, each at least that of `shape`.
    pub(crate) padded: [usize; 2],
}

impl Padded {
    fn len(&self) -> usize {
        self.padded[0] * self.padded[1]
    }
}

/// The tensors of a model, one after the other without gaps.
pub(crate) struct Layout(pub(crate) Vec<Padded>);

impl Layout {
    /// Elements on the device.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(Padded::len).sum()
    }

    /// Canonical to device.
    pub(crate) fn pack(&self, parameters: &Parameters) -> Vec<f32> {
        let mut packed = vec![0.0; self.len()];
        let mut rest = &mut packed[..];
        for tensor in &self.0 {
            let place;
            (place, rest) = rest.split_at_mut(tensor.len());
            let rows = parameters.tensor(tensor.name).chunks(tensor.shape[1]);
            for (to, from) in place.chunks_mut(tensor.padded[1]).zip(rows) {
                to[..from.len()].copy_from_slice(from);
            }
        }
        packed
    }

    /// Device to canonical.
    pub(crate) fn unpack(&self, packed: &[f32], parameters: &mut Parameters) {
        let mut rest = packed;
        for tensor in &self.0 {
            let place;
            (place, rest) = rest.split_at(tensor.len());
            let rows = parameters.tensor_mut(tensor.name).chunks_mut(tensor.shape[1]);
            for (to, from) in rows.zip(place.chunks(tensor.padded[1])) {
                to.copy_from_slice(&from[..to.len()]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nn::{MlpShape, Model};

    #[test]
    fn padding_is_zero_and_what_was_packed_comes_back() {
        let mut parameters = Parameters::zeros(Model::Mlp(MlpShape { hidden: 3 }));
        for (index, value) in parameters.values_mut().iter_mut().enumerate() {
            *value = 1.0 + index as f32;
        }
        let layout = Layout(vec![
            Padded { name: "fc1.weight", shape: [3, 784], padded: [8, 784] },
            Padded { name: "fc1.bias", shape: [1, 3], padded: [1, 8] },
            Padded { name: "fc2.weight", shape: [10, 3], padded: [10, 8] },
            Padded { name: "fc2.bias", shape: [1, 10], padded: [1, 12] },
        ]);
        let packed = layout.pack(&parameters);
        assert_eq!(packed.len(), layout.len());
        let set = packed.iter().filter(|&&value| value != 0.0).count();
        assert_eq!(set, parameters.values().len());
        assert_eq!(packed[8 * 784 + 3], 0.0);
        assert_eq!(packed[8 * 784 + 8 + 8], parameters.tensor("fc2.weight")[3]);
        let mut unpacked = Parameters::zeros(parameters.model());
        layout.unpack(&packed, &mut unpacked);
        assert_eq!(unpacked, parameters);
    }
}

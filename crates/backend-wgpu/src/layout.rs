//! Where parameters lie on the device.

use nn::Parameters;

/// A tensor of a padded layout, as a matrix and the larger one that it is the corner of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Padded {
    /// Rows and columns.
    pub(crate) shape: [usize; 2],
    /// Rows and columns on the device, each at least that of `shape`.
    pub(crate) padded: [usize; 2],
}

impl Padded {
    /// Elements on the device.
    pub(crate) fn len(&self) -> usize {
        self.padded[0] * self.padded[1]
    }
}

/// Where on the device each parameter is. What lies between them is padding, and zero.
pub(crate) struct Layout {
    places: Vec<usize>, // (parameter_count): of each canonical element, its place
    len: usize,
}

impl Layout {
    /// `places` of the canonical elements within `len`.
    ///
    /// # Panics
    /// If a place is beyond `len`.
    pub(crate) fn new(places: Vec<usize>, len: usize) -> Layout {
        assert!(places.iter().all(|&place| place < len), "a parameter beyond {len}");
        Layout { places, len }
    }

    /// The canonical order, with padding.
    pub(crate) fn padded(tensors: &[Padded]) -> Layout {
        let mut places = Vec::new();
        let mut first = 0;
        for Padded { shape: [rows, columns], padded: [padded_rows, stride] } in tensors {
            for row in 0..*rows {
                places.extend((0..*columns).map(|column| first + row * stride + column));
            }
            first += padded_rows * stride;
        }
        Layout::new(places, first)
    }

    /// Elements on the device.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Canonical to device.
    pub(crate) fn pack(&self, parameters: &Parameters) -> Vec<f32> {
        let mut packed = vec![0.0; self.len];
        for (&place, &value) in self.places.iter().zip(parameters.values()) {
            packed[place] = value;
        }
        packed
    }

    /// Device to canonical.
    pub(crate) fn unpack(&self, packed: &[f32], parameters: &mut Parameters) {
        for (&place, value) in self.places.iter().zip(parameters.values_mut()) {
            *value = packed[place];
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
        let layout = Layout::padded(&[
            Padded { shape: [3, 784], padded: [8, 784] },
            Padded { shape: [1, 3], padded: [1, 8] },
            Padded { shape: [10, 3], padded: [10, 8] },
            Padded { shape: [1, 10], padded: [1, 12] },
        ]);
        let packed = layout.pack(&parameters);
        assert_eq!(packed.len(), 8 * 784 + 8 + 80 + 12);
        let set = packed.iter().filter(|&&value| value != 0.0).count();
        assert_eq!(set, parameters.values().len());
        assert_eq!(packed[8 * 784 + 3], 0.0);
        assert_eq!(packed[8 * 784 + 8 + 8], parameters.tensor("fc2.weight")[3]);
        let mut unpacked = Parameters::zeros(parameters.model());
        layout.unpack(&packed, &mut unpacked);
        assert_eq!(unpacked, parameters);
    }
}

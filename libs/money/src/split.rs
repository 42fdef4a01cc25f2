use crate::MoneyError;

/// Splits `total` (not negative) in proportion to `weights`, by largest remainder: the parts always sum to `total`,
/// and no part is off its exact share by a whole unit. Ties go to the earlier part, so a split is
/// reproducible. All weights zero: everything goes to the first part.
///
/// # Errors
/// [`MoneyError::OutOfRange`] for a negative total or weight, or no weights at all.
pub fn split_by_weight(total: i64, weights: &[i64]) -> Result<Vec<i64>, MoneyError> {
    if total < 0 || weights.is_empty() || weights.iter().any(|w| *w < 0) {
        return Err(MoneyError::OutOfRange);
    }
    let sum: i128 = weights.iter().map(|w| i128::from(*w)).sum();
    if sum == 0 {
        let mut parts = vec![0; weights.len()];
        parts[0] = total;
        return Ok(parts);
    }
    let mut parts = Vec::with_capacity(weights.len());
    let mut remainders = Vec::with_capacity(weights.len());
    let mut left = total;
    for (index, weight) in weights.iter().enumerate() {
        // Both factors fit 63 bits, so the product fits an i128; the quotient is at most `total`.
        let product = i128::from(total).checked_mul(i128::from(*weight)).ok_or(MoneyError::OutOfRange)?;
        let part = product.checked_div(sum).ok_or(MoneyError::OutOfRange)?;
        let remainder = product.checked_rem(sum).ok_or(MoneyError::OutOfRange)?;
        let part = i64::try_from(part).map_err(|_| MoneyError::OutOfRange)?;
        left = left.checked_sub(part).ok_or(MoneyError::OutOfRange)?;
        parts.push(part);
        remainders.push((std::cmp::Reverse(remainder), index));
    }
    remainders.sort_unstable();
    for (_, index) in remainders {
        if left == 0 {
            break;
        }
        parts[index] = parts[index].checked_add(1).ok_or(MoneyError::OutOfRange)?;
        left = left.checked_sub(1).ok_or(MoneyError::OutOfRange)?;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_largest_remainder_takes_the_odd_unit() {
        assert_eq!(split_by_weight(100, &[1, 1, 1]), Ok(vec![34, 33, 33]));
        assert_eq!(split_by_weight(10, &[1, 5, 3]), Ok(vec![1, 6, 3]));
        assert_eq!(split_by_weight(5, &[0, 0]), Ok(vec![5, 0]));
        assert_eq!(split_by_weight(-1, &[1]), Err(MoneyError::OutOfRange));
        assert_eq!(split_by_weight(1, &[]), Err(MoneyError::OutOfRange));
    }

    proptest! {
        #[test]
        fn a_split_never_loses_a_unit(
            total in 0..=i64::MAX,
            weights in prop::collection::vec(0_i64..=i64::MAX / 16, 1..16),
        ) {
            let parts = split_by_weight(total, &weights).expect("split");
            prop_assert_eq!(parts.iter().map(|p| i128::from(*p)).sum::<i128>(), i128::from(total));
        }
    }
}

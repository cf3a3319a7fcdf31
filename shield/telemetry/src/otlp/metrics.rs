//! From the registry to OTLP's data points.

use std::time::SystemTime;

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
        metric::Data, number_data_point,
    },
};
use prometheus_client::{
    encoding::prometheus_protobuf::{self, prometheus_data_model as from},
    registry::Registry,
};

use crate::{metrics::CATALOGUE, trace::nanos};

/// All of a registry, as counted since `started`.
pub(super) fn points(registry: &Registry, started: SystemTime, now: SystemTime) -> Vec<Metric> {
    let families = prometheus_protobuf::encode(registry).unwrap_or_default();
    let time = Time {
        start: nanos(started),
        now: nanos(now),
    };
    families
        .into_iter()
        // Of a metric without a point Prometheus makes an error of the whole export.
        .filter(|family| !family.metric.is_empty())
        .filter_map(|family| time.metric(family))
        .collect()
}

struct Time {
    start: u64,
    now: u64,
}

impl Time {
    fn metric(&self, family: from::MetricFamily) -> Option<Metric> {
        let kind = family.r#type();
        let name = family.name;
        // Prometheus's form names a counter as it is shown there; its receiver adds this again.
        let name = match kind {
            from::MetricType::Counter => name.strip_suffix("_total").unwrap_or(&name).to_owned(),
            _ => name,
        };
        let metrics = family.metric;
        let data = match kind {
            from::MetricType::Counter => Data::Sum(Sum {
                data_points: metrics
                    .into_iter()
                    .filter_map(|metric| {
                        let value = metric.counter.as_ref()?.value;
                        Some(self.number(metric.label, value))
                    })
                    .collect(),
                aggregation_temporality: AggregationTemporality::Cumulative as i32,
                is_monotonic: true,
            }),
            from::MetricType::Gauge => Data::Gauge(Gauge {
                data_points: metrics
                    .into_iter()
                    .filter_map(|metric| {
                        let value = metric.gauge.as_ref()?.value;
                        Some(self.number(metric.label, value))
                    })
                    .collect(),
            }),
            from::MetricType::Histogram => Data::Histogram(Histogram {
                data_points: metrics
                    .into_iter()
                    .filter_map(|metric| Some(self.histogram(metric.label, metric.histogram?)))
                    .collect(),
                aggregation_temporality: AggregationTemporality::Cumulative as i32,
            }),
            _ => return None,
        };
        let unit = definitions(&name).map_or("", |definition| definition.unit());
        Some(Metric {
            description: family.help,
            unit: unit.to_owned(),
            name,
            data: Some(data),
            ..Metric::default()
        })
    }

    fn number(&self, labels: Vec<from::LabelPair>, value: f64) -> NumberDataPoint {
        NumberDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: self.start,
            time_unix_nano: self.now,
            value: Some(number_data_point::Value::AsDouble(value)),
            ..NumberDataPoint::default()
        }
    }

    fn histogram(
        &self,
        labels: Vec<from::LabelPair>,
        histogram: from::Histogram,
    ) -> HistogramDataPoint {
        // Prometheus counts up to each bound, OTLP between two.
        let (mut bounds, mut counts, mut below) = (Vec::new(), Vec::new(), 0);
        for bucket in &histogram.bucket {
            let upper = bucket.upper_bound;
            let up_to = bucket.cumulative_count;
            if upper.is_finite() {
                bounds.push(upper);
                counts.push(up_to.saturating_sub(below));
                below = up_to;
            }
        }
        let count = histogram.sample_count;
        counts.push(count.saturating_sub(below));
        HistogramDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: self.start,
            time_unix_nano: self.now,
            count,
            sum: Some(histogram.sample_sum),
            bucket_counts: counts,
            explicit_bounds: bounds,
            ..HistogramDataPoint::default()
        }
    }
}

fn definitions(name: &str) -> Option<&'static crate::metrics::Definition> {
    let mut all = CATALOGUE.iter().flat_map(|(_, part)| *part);
    all.find(|definition| definition.name == name)
}

fn attributes(labels: Vec<from::LabelPair>) -> Vec<KeyValue> {
    let attribute = |label: from::LabelPair| KeyValue {
        key: label.name,
        value: Some(AnyValue {
            value: Some(Value::StringValue(label.value)),
        }),
        ..KeyValue::default()
    };
    labels.into_iter().map(attribute).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;
    use crate::{
        labels::Code,
        metrics::{Exposition as _, Metrics, PROCESS, SHIELD, TELEMETRY},
    };

    fn exported(metrics: &Metrics) -> Vec<Metric> {
        let mut found = Vec::new();
        metrics.with_registry(&mut |registry| {
            found = points(registry, SystemTime::UNIX_EPOCH, SystemTime::now());
        });
        found
    }

    fn named<'a>(metrics: &'a [Metric], name: &str) -> &'a Metric {
        metrics.iter().find(|metric| metric.name == name).unwrap()
    }

    #[test]
    fn every_metric_goes_out_under_the_catalogues_name_kind_and_unit() {
        let metrics = Metrics::default();
        let exported = exported(&metrics);
        for definition in SHIELD.iter().chain(TELEMETRY).chain(PROCESS) {
            if definition.label.is_some() || definition.name.contains("certificate") {
                continue;
            }
            let metric = named(&exported, definition.name);
            assert_eq!(metric.unit, definition.unit(), "{}", metric.name);
            let kind = match metric.data.as_ref().unwrap() {
                Data::Sum(sum) if sum.is_monotonic => "counter",
                Data::Gauge(_) => "gauge",
                Data::Histogram(_) => "histogram",
                other => panic!("{other:?}"),
            };
            assert_eq!(kind, definition.kind, "{}", metric.name);
        }
    }

    #[test]
    fn values_labels_and_buckets_are_those_of_the_metrics() {
        let metrics = Metrics::default();
        let code = Code("TOKEN_EXPIRED");
        metrics.auth_failures.get_or_create(&code).inc_by(3);
        for millis in [1, 2, 400, 60_000] {
            let took = Duration::from_millis(millis);
            metrics.handshake_seconds.observe(took);
        }
        let exported = exported(&metrics);
        let Some(Data::Sum(sum)) = &named(&exported, "arqon_shield_auth_failures").data else {
            panic!("no sum");
        };
        let expired = Some(Value::StringValue(code.0.to_owned()));
        let of_code = |point: &&NumberDataPoint| {
            let label = &point.attributes[0];
            label.key == "code" && label.value.as_ref().unwrap().value == expired
        };
        let point = sum.data_points.iter().find(of_code).unwrap();
        assert_eq!(point.value, Some(number_data_point::Value::AsDouble(3.0)));
        let Some(Data::Histogram(all)) = &named(&exported, "arqon_shield_handshake_seconds").data
        else {
            panic!("no histogram");
        };
        let point = &all.data_points[0];
        assert_eq!((point.count, point.bucket_counts.len()), (4, 13));
        assert_eq!(point.bucket_counts.iter().sum::<u64>(), 4);
        assert_eq!(point.bucket_counts[12], 1, "above all bounds");
        assert!((point.sum.unwrap() - 60.403).abs() < 1e-6);
    }
}

// What a dashboard file may hold, by Grafana's own types (npm's @grafana/schema, in the version that scripts/lib/telemetry.sh
// pins): the dashboard, and of each kind of panel that is used here its own options. A kind that is missing below is an error,
// so that no panel goes unchecked.
import type { AnnotationQuery, Dashboard, DataSourceRef, FieldConfig, MatcherConfig, Panel, RowPanel } from '@grafana/schema';
import type * as Heatmap from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as Stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as Table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as Text from '@grafana/schema/dist/esm/raw/composable/text/panelcfg/x/TextPanelCfg_types.gen';
import type * as TimeSeries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

// A JSON file writes the value of an enumeration, not its name.
type Json<T> = 0 extends 1 & T
    ? T
    : T extends string
      ? `${T}`
      : T extends object
        ? { [K in keyof T]: Json<T[K]> }
        : T;

// The plug-in of this data source is not in that package: its fields are those of Grafana's documentation.
interface PrometheusQuery {
    refId: string;
    datasource?: DataSourceRef & { type: 'prometheus'; uid: string };
    expr: string;
    legendFormat?: string;
    format?: 'time_series' | 'table' | 'heatmap';
    instant?: boolean;
    range?: boolean;
    exemplar?: boolean;
    interval?: string;
    intervalFactor?: number;
    hide?: boolean;
    editorMode?: 'code' | 'builder';
}

type Matcher = { id: 'byName' | 'byRegexp' | 'byType' | 'byFrameRefID'; options: string };

// An override names a field's setting; those of a kind of panel are `custom.` and their name.
type Overrides<Custom> = Array<{
    matcher: Matcher & Json<MatcherConfig>;
    properties: Array<
        | { [K in keyof FieldConfig]-?: { id: K & string; value: Json<FieldConfig>[K] } }[keyof FieldConfig]
        | { [K in keyof Custom]-?: { id: `custom.${K & string}`; value: Json<Custom>[K] } }[keyof Custom]
    >;
}>;

type TypedPanel<Type extends string, Options, Custom> = Json<Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'targets' | 'id' | 'gridPos'>> & {
    type: Type;
    id: number;
    gridPos: Json<NonNullable<Panel['gridPos']>>;
    options?: Partial<Json<Options>>;
    fieldConfig?: {
        defaults: Json<Omit<FieldConfig, 'custom'>> & { custom?: Partial<Json<Custom>> };
        overrides: Overrides<Custom>;
    };
    targets?: PrometheusQuery[];
};

type AnyPanel =
    | TypedPanel<'timeseries', TimeSeries.Options, TimeSeries.FieldConfig>
    | TypedPanel<'stat', Stat.Options, Record<never, never>>
    | TypedPanel<'table', Table.Options, Table.FieldConfig>
    | TypedPanel<'heatmap', Heatmap.Options, Heatmap.FieldConfig>
    | TypedPanel<'text', Text.Options, Record<never, never>>;

type Row = Json<Omit<RowPanel, 'panels'>> & { panels: AnyPanel[] };

export type DashboardFile = Json<Omit<Dashboard, 'panels' | 'annotations' | 'schemaVersion' | 'uid' | 'title'>> & {
    schemaVersion: 42;
    uid: string;
    title: string;
    annotations?: { list?: Json<AnnotationQuery>[] };
    panels: Array<AnyPanel | Row>;
};

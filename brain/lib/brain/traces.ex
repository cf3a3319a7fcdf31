defmodule Brain.Traces do
  @moduledoc """
  The traces that go through a shard, and the spans that come of them.

  A traced change begins `brain.track` when its batch is read. If its room is to be told of, the
  trace waits for the round that does so, ends there, and goes on from its span at the Shields; else
  it ends when the batch is applied. `brain.activity` is the marking of a session whose message was
  traced.

  No more than a fixed number of traces are held between two ticks, whatever comes. Where spans are
  not exported, none is made: the trace then goes on from the Shield's own span, which is.

  Pure: times and ids are arguments.
  """

  alias Brain.Roster

  # Waiting for a round and ended since the last one, together.
  @most 256

  @type trace_id :: <<_::128>>
  @type span_id :: <<_::64>>
  @typedoc "A room, the trace, and the span there that is the cause."
  @type traced :: {Roster.room(), trace_id, span_id}
  @typedoc "What traces came with: whose changes or marks, how many, and when."
  @type batch :: %{
          account: Roster.account(),
          shield: Roster.shield(),
          count: non_neg_integer,
          began: integer
        }
  @type span ::
          {name :: binary, trace_id, parent :: span_id, span_id, began :: integer,
           ended :: integer, [{binary, binary | integer | boolean}]}
  @type t :: %__MODULE__{
          export?: boolean,
          waiting: %{Roster.account() => [map]},
          ended: [span],
          size: non_neg_integer
        }

  defstruct export?: true, waiting: %{}, ended: [], size: 0

  @doc "None yet; whether spans are exported."
  @spec new(boolean) :: t
  def new(export?), do: %__MODULE__{export?: export?}

  @doc """
  Changes were applied. The trace of a room for which `waits?` is true waits until that is told.

  `ids` are those of the spans, one for each trace. Returns how many there was no place for, too.
  """
  @spec track(t, batch, [traced], [span_id], boolean, (Roster.room() -> boolean), integer) ::
          {t, dropped :: non_neg_integer}
  def track(t, batch, traces, ids, emitter?, waits?, now) do
    each(t, traces, ids, fn t, {room, trace, parent}, id ->
      one = %{batch: batch, room: room, trace: trace, parent: parent, id: id, emitter?: emitter?}

      if waits?.(room) do
        waiting = Map.update(t.waiting, batch.account, [one], &[one | &1])
        %{t | waiting: waiting, size: t.size + 1}
      else
        ended(%{t | size: t.size + 1}, one, false, now)
      end
    end)
  end

  @doc "Sessions were marked as active."
  @spec mark(t, batch, [traced], [span_id], integer) :: {t, dropped :: non_neg_integer}
  def mark(%{export?: false} = t, _, _, _, _), do: {t, 0}

  def mark(t, batch, traces, ids, now) do
    each(t, traces, ids, fn t, {room, trace, parent}, id ->
      about = [{"arqon.marks", batch.count}]
      span = span("brain.activity", batch, room, trace, parent, id, now, about)
      %{t | ended: [span | t.ended], size: t.size + 1}
    end)
  end

  @doc "Adds the traces that wait to the commands that tell of their rooms."
  @spec tell(t, [{pos_integer, tuple}], integer) :: {t, [{pos_integer, tuple}]}
  def tell(%{waiting: none} = t, commands, _) when none == %{}, do: {t, commands}

  def tell(t, commands, now) do
    {commands, t} = Enum.map_reduce(commands, t, &told(&1, &2, now))
    {t, commands}
  end

  @doc "Ends those that wait for what nothing is to be told of any more."
  @spec settle(t, (Roster.account(), Roster.room() -> boolean), integer) :: t
  def settle(%{waiting: none} = t, _, _) when none == %{}, do: t

  def settle(t, waits?, now) do
    Enum.reduce(t.waiting, t, fn {account, all}, t ->
      {waiting, over} = Enum.split_with(all, &waits?.(account, &1.room))
      Enum.reduce(over, wait(t, account, waiting), &ended(&2, &1, false, now))
    end)
  end

  @doc "Takes the spans that have ended."
  @spec take(t) :: {[span], t}
  def take(t) do
    {Enum.reverse(t.ended), %{t | ended: [], size: t.size - length(t.ended)}}
  end

  defp each(t, traces, ids, add) do
    Enum.zip(traces, ids)
    |> Enum.reduce({t, 0}, fn {trace, id}, {t, dropped} ->
      if t.size < @most, do: {add.(t, trace, id), dropped}, else: {t, dropped + 1}
    end)
  end

  defp told({cost, {:events, account, coverage, gone, rooms, []}} = same, t, now) do
    case t.waiting do
      %{^account => all} ->
        names = MapSet.new(rooms, &elem(&1, 0))
        {told, waiting} = Enum.split_with(all, &MapSet.member?(names, &1.room))
        # The one that came first is told first.
        told = Enum.reverse(told)
        traces = for one <- told, do: {one.room, one.trace, own(t, one)}
        t = Enum.reduce(told, wait(t, account, waiting), &ended(&2, &1, true, now))
        command = {:events, account, coverage, gone, rooms, traces}
        {{cost + :erlang.external_size(traces), command}, t}

      _ ->
        {same, t}
    end
  end

  defp told(other, t, _), do: {other, t}

  # Of a span that nobody exports no other may be the child.
  defp own(%{export?: true}, one), do: one.id
  defp own(_, one), do: one.parent

  defp wait(t, account, []), do: %{t | waiting: Map.delete(t.waiting, account)}
  defp wait(t, account, waiting), do: %{t | waiting: Map.put(t.waiting, account, waiting)}

  defp ended(%{export?: false} = t, _, _, _), do: %{t | size: t.size - 1}

  defp ended(t, one, told?, now) do
    about = [
      {"arqon.changes", one.batch.count},
      {"arqon.emitter", one.emitter?},
      {"arqon.told", told?}
    ]

    %{room: room, trace: trace, parent: parent, id: id} = one
    span = span("brain.track", one.batch, room, trace, parent, id, now, about)
    %{t | ended: [span | t.ended]}
  end

  defp span(name, batch, room, trace, parent, id, now, about) do
    about = [
      {"messaging.system", "nats"},
      {"arqon.account", batch.account},
      {"arqon.shield", batch.shield},
      {"arqon.room", room} | about
    ]

    # A clock may be set back between the two.
    {name, trace, parent, id, batch.began, max(now, batch.began), about}
  end
end

defmodule Brain.Incarnations do
  @moduledoc """
  Which incarnation of each Shield is in force and which of those is seen, from beats and silence.

  Pure, and safe against any clock: `now` is monotonic milliseconds of the caller, but what counts
  is a clock of our own, which takes a step of a second at most and none while the Brain is cut
  off. So neither a process that was stopped for an hour nor a jumping clock declares anyone dead
  before the beats that waited meanwhile are read.
  """

  # A tick is a tenth of it; a longer pause says something of us, not of the Shields.
  @most_step_ms 1_000
  # After a cut each Shield gets this long to be heard again.
  @grace_ms 10_000
  @tombstone_ms 86_400_000
  # Far above any fleet: what forged beats can cost is bounded by these.
  @most_shields 10_000
  @most_tombstones 20_000
  @most_of_one_id 8

  @type shield :: binary
  @type epoch :: non_neg_integer
  @type effect ::
          {:show | :hide | :delete, shield, epoch}
          | {:count, :stale_epoch | :shield_conflicts}

  @typep incarnation :: %{uptime: integer, at: integer}
  @typep known :: %{force: epoch | nil, seen?: boolean, beating: %{epoch => incarnation}}

  @type t :: %__MODULE__{
          down_after: pos_integer,
          forget_after: pos_integer,
          clock: integer,
          last: integer | nil,
          frozen?: boolean,
          shields: %{shield => known},
          tombstones: %{{shield, epoch} => {integer | :goodbye, integer}}
        }

  @enforce_keys [:down_after, :forget_after]
  defstruct [
    :down_after,
    :forget_after,
    clock: 0,
    last: nil,
    frozen?: true,
    shields: %{},
    tombstones: %{}
  ]

  @spec new(pos_integer, pos_integer) :: t
  def new(down_after_ms, forget_after_ms) do
    %__MODULE__{down_after: down_after_ms, forget_after: forget_after_ms}
  end

  @doc "The incarnations in force, with whether each is seen."
  @spec in_force(t) :: [{shield, epoch, boolean}]
  def in_force(s) do
    for {id, %{force: epoch, seen?: seen?}} <- s.shields, epoch != nil, do: {id, epoch, seen?}
  end

  @doc "Whether this is the incarnation in force."
  @spec in_force?(t, shield, epoch) :: boolean
  def in_force?(s, id, epoch), do: match?(%{^id => %{force: ^epoch}}, s.shields)

  @doc "The Brain is cut off: silence proves nothing any more."
  @spec freeze(t, integer) :: t
  def freeze(s, now), do: %{advance(s, now) | frozen?: true}

  @doc "The Brain hears again."
  @spec thaw(t, integer) :: t
  def thaw(%{frozen?: false} = s, now), do: advance(s, now)

  def thaw(s, now) do
    s = advance(s, now)
    at = s.clock + @grace_ms - s.down_after

    shields =
      Map.new(s.shields, fn {id, known} ->
        # Only who was not silent before the cut: the others have had their time.
        beating =
          Map.new(known.beating, fn {epoch, inc} ->
            {epoch, if(alive?(s, inc), do: %{inc | at: max(inc.at, at)}, else: inc)}
          end)

        {id, %{known | beating: beating}}
      end)

    %{s | frozen?: false, shields: shields}
  end

  @doc "Moves our own clock on."
  @spec advance(t, integer) :: t
  def advance(%{last: nil} = s, now), do: %{s | last: now}

  def advance(s, now) do
    step = if s.frozen?, do: 0, else: (now - s.last) |> max(0) |> min(@most_step_ms)
    %{s | last: now, clock: s.clock + step}
  end

  ## Beats

  @doc "A beat of an incarnation. One whose uptime did not grow is an old one, and ignored."
  @spec beat(t, integer, shield, epoch, integer, boolean) :: {t, [effect]}
  def beat(s, now, id, epoch, uptime, goodbye?) do
    s = advance(s, now)
    known = Map.get(s.shields, id, %{force: nil, seen?: false, beating: %{}})

    cond do
      buried?(s, id, epoch, uptime) or stale?(known, epoch, uptime) ->
        {s, [{:count, :stale_epoch}]}

      goodbye? ->
        bury(s, id, known, epoch, :goodbye)

      not is_map_key(s.shields, id) and map_size(s.shields) >= @most_shields ->
        {s, []}

      not is_map_key(known.beating, epoch) and map_size(known.beating) >= @most_of_one_id ->
        {s, [{:count, :shield_conflicts}]}

      true ->
        s = %{s | tombstones: Map.delete(s.tombstones, {id, epoch})}
        beating = Map.put(known.beating, epoch, %{uptime: uptime, at: s.clock})
        {s, effects} = elect(s, id, %{known | beating: beating})

        if in_force?(s, id, epoch),
          do: {s, effects},
          else: {s, effects ++ [{:count, :shield_conflicts}]}
    end
  end

  defp buried?(s, id, epoch, uptime) do
    case s.tombstones do
      %{{^id, ^epoch} => {:goodbye, _}} -> true
      %{{^id, ^epoch} => {last, _}} -> uptime <= last
      _ -> false
    end
  end

  defp stale?(known, epoch, uptime) do
    case known.beating do
      %{^epoch => %{uptime: last}} -> uptime <= last
      _ -> false
    end
  end

  ## Silence

  @doc "What the time that has passed calls for."
  @spec tick(t, integer) :: {t, [effect]}
  def tick(s, now) do
    s = advance(s, now)

    {s, effects} =
      Enum.reduce(s.shields, {s, []}, fn {id, known}, {s, effects} ->
        {s, more} = silence(s, id, known)
        {s, [more | effects]}
      end)

    {prune(s), effects |> Enum.reverse() |> Enum.concat()}
  end

  defp silence(s, id, known) do
    {s, known} =
      for {epoch, %{uptime: uptime} = inc} <- known.beating,
          epoch != known.force and not alive?(s, inc),
          reduce: {s, known} do
        {s, known} ->
          {tombstone(s, id, epoch, uptime), %{known | beating: Map.delete(known.beating, epoch)}}
      end

    forgotten = known.beating[known.force]

    if forgotten != nil and not alive?(s, forgotten) and
         s.clock - forgotten.at >= s.forget_after and map_size(known.beating) == 1 do
      bury(s, id, known, known.force, forgotten.uptime)
    else
      elect(s, id, known)
    end
  end

  defp alive?(s, inc), do: s.clock - inc.at < s.down_after

  # The highest epoch that beats is in force. One that fell silent stays so, hidden, until it is
  # forgotten or another beats.
  defp elect(s, id, known) do
    alive = for {epoch, inc} <- known.beating, alive?(s, inc), do: epoch

    case {Enum.max(alive, fn -> nil end), known} do
      {nil, %{seen?: true, force: epoch}} ->
        {put(s, id, %{known | seen?: false}), [{:hide, id, epoch}]}

      {nil, _} ->
        {put(s, id, known), []}

      {epoch, %{force: epoch, seen?: true}} ->
        {put(s, id, known), []}

      {epoch, %{force: old}} when old == epoch or old == nil ->
        {put(s, id, %{known | force: epoch, seen?: true}), [{:show, id, epoch}]}

      {epoch, %{force: old}} ->
        {s, known} = step_down(s, id, known, old, old in alive)
        known = %{known | force: epoch, seen?: true}
        {put(s, id, known), [{:delete, id, old}, {:show, id, epoch}]}
    end
  end

  # One that still beats is kept in mind, to be counted, and to follow if the other falls silent.
  defp step_down(s, _, known, _, true), do: {s, known}

  defp step_down(s, id, known, epoch, false) do
    case Map.pop(known.beating, epoch) do
      {nil, _} -> {s, known}
      {inc, beating} -> {tombstone(s, id, epoch, inc.uptime), %{known | beating: beating}}
    end
  end

  defp bury(s, id, known, epoch, uptime) do
    s = tombstone(s, id, epoch, uptime)
    known = %{known | beating: Map.delete(known.beating, epoch)}

    if known.force == epoch do
      {s, effects} = elect(s, id, %{known | force: nil, seen?: false})
      {s, [{:delete, id, epoch} | effects]}
    else
      {put(s, id, known), []}
    end
  end

  defp put(s, id, %{force: nil, beating: none}) when none == %{} do
    %{s | shields: Map.delete(s.shields, id)}
  end

  defp put(s, id, known), do: %{s | shields: Map.put(s.shields, id, known)}

  ## Tombstones

  defp tombstone(s, id, epoch, uptime) do
    %{s | tombstones: Map.put(s.tombstones, {id, epoch}, {uptime, s.clock + @tombstone_ms})}
  end

  defp prune(%{tombstones: none} = s) when map_size(none) == 0, do: s

  defp prune(s) when map_size(s.tombstones) <= @most_tombstones do
    # Looking at all of them each tick would cost more than keeping some too long.
    if rem(div(s.clock, @most_step_ms), 60) == 0, do: expire(s), else: s
  end

  defp prune(s) do
    newest = s.tombstones |> Enum.sort_by(fn {_, {_, ends}} -> -ends end)
    %{s | tombstones: newest |> Enum.take(div(@most_tombstones, 2)) |> Map.new()}
  end

  defp expire(s) do
    %{s | tombstones: Map.filter(s.tombstones, fn {_, {_, ends}} -> ends > s.clock end)}
  end
end
